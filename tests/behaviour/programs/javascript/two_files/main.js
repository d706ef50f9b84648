const { text } = require("./greeting");

console.log(text("javascript"));
