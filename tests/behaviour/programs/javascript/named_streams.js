const fs = require("fs");

fs.writeFileSync("/dev/stdout", fs.readFileSync("/dev/stdin"));
fs.appendFileSync("/dev/stderr", "and an error\n");
fs.writeFileSync("/dev/fd/1", "by a descriptor\n");
fs.readFileSync("/proc/self/fd/0");
