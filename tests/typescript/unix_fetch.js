// fetch by way of a Unix socket, which Node's own has no option for.
import { request } from "node:http";
import { Readable } from "node:stream";

/**
 * @param {string} socketPath
 * @returns {(input: Request) => Promise<Response>}
 */
export function unixFetch(socketPath) {
  return async (input) => {
    const url = new URL(input.url);
    const body = input.body === null ? undefined : Buffer.from(await input.arrayBuffer());
    return await new Promise((resolve, reject) => {
      const sent = request(
        {
          socketPath,
          method: input.method,
          path: url.pathname + url.search,
          headers: Object.fromEntries(input.headers),
        },
        (answer) =>
          resolve(
            new Response(answer.statusCode === 204 ? null : Readable.toWeb(answer), {
              status: answer.statusCode,
              headers: Object.entries(answer.headers).map(([name, value]) => [name, String(value)]),
            }),
          ),
      );
      sent.on("error", reject);
      sent.end(body);
    });
  };
}
