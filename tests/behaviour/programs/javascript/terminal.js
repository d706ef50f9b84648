const tty = require("tty");
const asks = require("readline").createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: false,
});

asks.question("guess: ", (number) => {
    const all = [0, 1, 2].map((fd) => Number(tty.isatty(fd))).join("");
    console.log(`${all} in ${process.stdout.rows}x${process.stdout.columns}: ${number}`);
    process.kill(process.pid, "SIGKILL");
});
