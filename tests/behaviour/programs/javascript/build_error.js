console.log("this line is fine");
console.log("this one is not";
