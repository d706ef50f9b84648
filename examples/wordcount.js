// Counts the words on its stdin: vmm-run examples/wordcount.js <README.md
const counts = new Map();
let text = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => (text += chunk));
process.stdin.on("end", () => {
  for (const word of text.toLowerCase().match(/\p{L}+/gu) ?? []) {
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const most = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  for (const [word, count] of most.slice(0, 10)) {
    console.log(`${String(count).padStart(5)} ${word}`);
  }
});
