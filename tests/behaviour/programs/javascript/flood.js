const lines = [];
for (let number = 0; number < 20000; number++) {
  lines.push(`line ${String(number).padStart(6, "0")}\n`);
}
process.stdout.write(lines.join(""));
