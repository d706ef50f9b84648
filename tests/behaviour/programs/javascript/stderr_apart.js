for (let number = 0; number < 3; number++) {
  console.log(`out ${number}`);
  console.error(`err ${number}`);
}
