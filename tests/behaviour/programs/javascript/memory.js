console.log("before the last of the memory");
const hoard = [];
for (;;) {
  hoard.push(Buffer.alloc(1 << 20, 1));
}
