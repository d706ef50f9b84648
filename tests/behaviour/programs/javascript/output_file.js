require("fs").writeFileSync("result.txt", "the result is 42\n");
