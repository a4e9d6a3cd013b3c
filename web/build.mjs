// Sources → dist/, byte for byte the same on every machine, since dist/ is committed and served as it is.
//
//   node build.mjs           writes dist/
//   node build.mjs --check   fails if dist/ is not what the sources build, or is too heavy
//   node build.mjs --tests   bundles test/*.test.ts into target/unit/, where `node --test` runs them
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
/** All that a first visit loads, compressed. */
const DIST_GZIP_BYTES_MAX = 100 * 1024;

/** The SDK is bundled from its sources, but with the packages of this folder: one lock file decides. */
const ownPackages = {
  name: "own-packages",
  setup({ onResolve, resolve }) {
    onResolve({ filter: /^@bufbuild\// }, ({ path, kind, pluginData }) =>
      pluginData === "own" ? undefined : resolve(path, { resolveDir: here, kind, pluginData: "own" }),
    );
  },
};

/** What every bundle has in common. */
const common = {
  absWorkingDir: here,
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  alias: { "@hubbub/client": join(here, "../sdk/typescript/src/index.ts") },
  plugins: [ownPackages],
  // The paths of tsconfig.json are for the type checker; they would pick the wrong half of a package.
  tsconfigRaw: {},
  // TypeScript sources name each other as the JavaScript that they become.
  resolveExtensions: [".ts", ".js"],
  logLevel: "warning",
  write: false,
};

async function page() {
  const { outputFiles } = await build({
    ...common,
    entryPoints: { app: "src/main.ts", style: "src/app.css" },
    outdir: "dist",
    minify: true,
  });
  const output = (ending) => Buffer.from(outputFiles.find((file) => file.path.endsWith(ending)).contents);
  const files = new Map([
    ["app.js", output("app.js")],
    ["app.css", output("style.css")],
    ["icon.svg", await readFile(join(here, "src/icon.svg"))],
  ]);
  let html = await readFile(join(here, "src/index.html"), "utf8");
  for (const [name, bytes] of files) {
    const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 12);
    html = html.replaceAll(`"/${name}"`, `"/${name}?v=${hash}"`);
  }
  files.set("index.html", Buffer.from(html));
  return files;
}

function gzipped(files) {
  let bytes = 0;
  for (const content of files.values()) bytes += gzipSync(content, { level: 9 }).length;
  return bytes;
}

async function check(files) {
  const dist = join(here, "dist");
  const names = await readdir(dist);
  const stale = names.filter((name) => !files.has(name));
  for (const [name, bytes] of files) {
    if (!names.includes(name) || !bytes.equals(await readFile(join(dist, name)))) stale.push(name);
  }
  if (stale.length > 0) throw new Error(`web/dist is not what the sources build (${stale.join(", ")}): npm run build`);
}

async function tests() {
  const target = join(here, "target/unit");
  await rm(target, { recursive: true, force: true });
  const entryPoints = (await readdir(join(here, "test"))).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    entryPoints: entryPoints.map((name) => join("test", name)),
    outdir: target,
    outExtension: { ".js": ".mjs" },
    platform: "node",
    sourcemap: "inline",
    write: true,
  });
}

if (process.argv.includes("--tests")) {
  await tests();
} else {
  const files = await page();
  const bytes = gzipped(files);
  if (process.argv.includes("--check")) {
    await check(files);
  } else {
    await rm(join(here, "dist"), { recursive: true, force: true });
    await mkdir(join(here, "dist"), { recursive: true });
    for (const [name, content] of files) await writeFile(join(here, "dist", name), content);
  }
  console.log(`web/dist: ${bytes} bytes gzipped`);
  if (bytes > DIST_GZIP_BYTES_MAX) throw new Error(`web/dist is over ${DIST_GZIP_BYTES_MAX} bytes`);
}
