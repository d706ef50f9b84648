console.log("before the end of time");
for (;;) {}
