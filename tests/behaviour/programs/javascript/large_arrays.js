const SIZE = 800 * 1024 * 1024;
const array = new Uint8Array(SIZE);
for (let place = 0; place < 7; place++) {
  array[place * Math.floor(SIZE / 7)] = 1;
}
console.log("sparse");
if (process.argv[2] === "whole") {
  array.fill(2);
} else {
  const hoard = [];
  for (;;) hoard.push(Array(1000).fill({}));
}
