// For working on the page: dist/ as it is now, everything else from a running server. The headers are those
// that the server itself sends with its own page, so the policy is the real one.
//
//   node dev.mjs http://127.0.0.1:7878 8080
import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const dist = join(dirname(fileURLToPath(import.meta.url)), "dist");
const FILES = new Map([["/", "index.html"], ["/app.js", "app.js"], ["/app.css", "app.css"], ["/icon.svg", "icon.svg"]]);
/** What belongs to the bytes of the server's own copy. */
const OF_THE_BODY = new Set(["content-length", "content-encoding", "transfer-encoding", "etag", "cache-control"]);

/** Resolves to the address of the page, and `close`. */
export function serve(server, port = 0) {
  const { hostname, host, port: serverPort } = new URL(server);
  // The page's own origin is the server's, to the server. Another one stays what it is, and is refused.
  const originOf = ({ headers: { origin, host } }) => (origin === `http://${host}` ? server : origin);
  const dev = http.createServer((request, response) => {
    const { "accept-encoding": _, "if-none-match": __, ...headers } = request.headers;
    if (headers.origin !== undefined) headers.origin = originOf(request);
    const onward = http.request(server + request.url, { method: request.method, headers: { ...headers, host } }, async (answer) => {
      const name = FILES.get(new URL(request.url, server).pathname);
      const isPage = name !== undefined && answer.headers["content-type"] !== undefined && !answer.headers["content-type"].startsWith("text/plain");
      if (!isPage) {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
        return;
      }
      answer.resume();
      for (const [header, value] of Object.entries(answer.headers)) {
        if (!OF_THE_BODY.has(header)) response.setHeader(header, String(value).replaceAll(host, request.headers.host));
      }
      response.setHeader("cache-control", "no-store");
      const bytes = await readFile(join(dist, name));
      // As the server does it: what a slow network has to carry is the same.
      const isZipped = /\bgzip\b/.test(request.headers["accept-encoding"] ?? "");
      if (isZipped) response.setHeader("content-encoding", "gzip");
      response.end(isZipped ? gzipSync(bytes) : bytes);
    });
    onward.on("error", () => (response.headersSent ? response.destroy() : response.writeHead(502).end()));
    request.pipe(onward);
  });
  dev.on("upgrade", (request, socket, head) => {
    const onward = net.connect(Number(serverPort), hostname, () => {
      const own = { ...request.headers, host, ...(request.headers.origin && { origin: originOf(request) }) };
      const lines = Object.entries(own).map(([header, value]) => `${header}: ${value}\r\n`);
      onward.write(`GET ${request.url} HTTP/1.1\r\n${lines.join("")}\r\n`);
      onward.write(head);
      onward.pipe(socket).pipe(onward);
    });
    for (const [one, other] of [[socket, onward], [onward, socket]]) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  });
  return new Promise((resolve) => {
    dev.listen(port, "127.0.0.1", () => {
      resolve({
        url: `http://127.0.0.1:${dev.address().port}`,
        close: () => {
          dev.close();
          dev.closeAllConnections();
        },
      });
    });
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await serve(process.argv[2] ?? "http://127.0.0.1:7878", Number(process.argv[3] ?? 8080));
  console.log(`the page of web/dist: ${url}`);
}
