let bytes = 0;
let lines = 0;
process.stdin.on("data", (chunk) => {
  bytes += chunk.length;
  lines += chunk.filter((byte) => byte === 10).length;
});
process.stdin.on("end", () => console.log(`${bytes} bytes, ${lines} lines`));
