const fs = require("fs");

const number = Number(process.argv[2]);
console.log(`javascript ${number} ${fs.readFileSync(0).length}`);
console.error(`error ${number}`);
fs.writeFileSync("square.txt", `${number * number}\n`);
process.exitCode = number % 100;
