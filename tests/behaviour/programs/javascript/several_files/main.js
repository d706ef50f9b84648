import { readFileSync } from "node:fs";

import parts from "./parts.cjs";
import { text } from "./greeting.js";

const word = await Promise.resolve(readFileSync("main/word.txt", "utf8"));
process.stdout.write(text("javascript", parts.joint, word));
