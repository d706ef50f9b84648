for (let number = 0; number < 20000; number++) {
  console.log(`line ${String(number).padStart(6, "0")}`);
}
