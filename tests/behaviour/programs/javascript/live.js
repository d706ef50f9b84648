const { setTimeout: sleep } = require("timers/promises");
const readline = require("readline");

async function main() {
  const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  for (let number = 0; number < 6; number++) {
    console.log(`tick ${number}`);
    await answers.next();
    await sleep(400);
  }
  process.stdin.destroy();
}

main();
