// Runs programs by a client whose types are generated. usage: node program.js SOCKET
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";
import { unixFetch } from "./unix_fetch.js";

declare const process: { argv: string[] };

const client = createClient<paths>({
  baseUrl: "http://localhost",
  fetch: unixFetch(process.argv[2]!),
});

// Nothing but what a job needs: whatever else there is may be left out.
const least: components["schemas"]["RunBody"] = {
  language: "bash",
  source: "echo hello; cat data; printenv my.variable-1; exit 3",
  environment: { "my.variable-1": "named" },
  files: [{ path: "data", text: "content\n" }],
};
// What is null has not been given, and the query may say the same as the body.
const { data, error } = await client.POST("/v1/run", {
  params: { query: { language: "bash", timeout: 60 } },
  body: { ...least, timeout: 60, memory: null, arguments: null, stdin: null },
});
if (error) throw new Error(error.detail);
console.log(JSON.stringify([data.verdict, data.run?.code, data.run?.stdout.text]));

const refused = await client.POST("/v1/run", { body: { ...least, language: "klingon" } });
console.log(JSON.stringify([refused.response.status, refused.error?.detail]));

const languages = await client.GET("/v1/languages");
console.log(JSON.stringify(languages.data?.languages.map((language) => language.name)));
