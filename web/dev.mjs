// For working on the page before the server serves it: dist/ with the real headers, /v1 proxied to a
// running hubbub, /v1/session emulated with its token endpoint.
//   node dev.mjs http://127.0.0.1:7878 8080
import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const dist = join(dirname(fileURLToPath(import.meta.url)), "dist");
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };

export function serve(target, port = 0) {
  const { hostname, port: targetPort } = new URL(target);
  const api = async (path, body) => {
    const answer = await fetch(target + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    return { status: answer.status, type: answer.headers.get("content-type"), retry: answer.headers.get("retry-after"), text: await answer.text() };
  };
  const cookieOf = (request) => /hubbub_session=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];
  const setCookie = (value, age) => `hubbub_session=${value}; Path=/v1/session; HttpOnly; SameSite=Strict; Max-Age=${age}`;

  async function session(request, response, body) {
    if (request.method === "GET") return response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ sign_up: "open", has_cookie: !!cookieOf(request) }));
    if (request.method === "DELETE") {
      const token = cookieOf(request);
      if (token) await api("/v1/token/revoke", { token });
      return response.writeHead(204, { "set-cookie": setCookie("", 0) }).end();
    }
    const renew = request.url === "/v1/session/renew";
    const token = cookieOf(request);
    if (renew && !token) {
      return response.writeHead(401, { "content-type": "application/problem+json" }).end('{"title":"A valid login is needed first.","status":401,"code":200,"name":"not_authenticated","retryable":false}');
    }
    const answer = await api("/v1/token", renew ? { grant_type: "refresh_token", refresh_token: token } : { grant_type: "password", ...JSON.parse(body) });
    if (answer.status !== 200) return response.writeHead(answer.status, { "content-type": answer.type }).end(answer.text);
    const { refresh_token, ...rest } = JSON.parse(answer.text);
    response.writeHead(200, { "content-type": "application/json", "set-cookie": setCookie(refresh_token, 2_592_000) }).end(JSON.stringify({ ...rest, user: JSON.parse(Buffer.from(rest.access_token.split(".")[1], "base64url")).sub }));
  }

  async function file(request, response) {
    const path = new URL(request.url, "http://x").pathname;
    const name = path === "/" ? "index.html" : path.slice(1);
    const host = request.headers.host;
    const bytes = /^[a-z]+\.[a-z]+$/.test(name) ? await readFile(join(dist, name)).catch(() => undefined) : undefined;
    if (!bytes) return response.writeHead(404).end();
    response.writeHead(200, {
      "content-type": TYPES[extname(name)],
      "content-security-policy":
        `default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws://${host}; ` +
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cross-origin-opener-policy": "same-origin",
    }).end(bytes);
  }

  const server = http.createServer(async (request, response) => {
    if (!request.url.startsWith("/v1/")) return file(request, response);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    if (request.url.startsWith("/v1/session")) {
      return session(request, response, body.toString()).catch(() => response.writeHead(503).end());
    }
    const { origin, ...headers } = request.headers;
    const onward = http.request(target + request.url, { method: request.method, headers: { ...headers, host: `${hostname}:${targetPort}` } }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.headersSent || response.writeHead(502).end());
    onward.end(body);
  });
  server.on("upgrade", (request, socket, head) => {
    const onward = net.connect(Number(targetPort), hostname, () => {
      const lines = [`GET ${request.url} HTTP/1.1`];
      for (const [name, value] of Object.entries(request.headers)) {
        if (name === "origin") continue;
        lines.push(`${name}: ${name === "host" ? `${hostname}:${targetPort}` : value}`);
      }
      onward.write(`${lines.join("\r\n")}\r\n\r\n`);
      onward.write(head);
      onward.pipe(socket).pipe(onward);
    });
    onward.on("error", () => socket.destroy());
    socket.on("error", () => onward.destroy());
    onward.on("close", () => socket.destroy());
    socket.on("close", () => onward.destroy());
  });
  return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve({
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => (server.closeAllConnections(), server.close()),
  })));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await serve(process.argv[2] ?? "http://127.0.0.1:7878", Number(process.argv[3] ?? 8080));
  console.log(url);
}
