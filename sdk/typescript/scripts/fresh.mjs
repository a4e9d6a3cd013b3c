// Whether the committed code is what `npm run generate` makes of ../../proto. Changes nothing.
import { execFileSync } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const folder = fileURLToPath(new URL("..", import.meta.url))
const committed = join(folder, "src/gen")
const made = mkdtempSync(join(tmpdir(), "hubbub-gen-"))
try {
  execFileSync(join(folder, "node_modules/.bin/buf"), ["generate", "--output", made], {
    cwd: folder,
    stdio: "inherit",
    // Where the generator is that buf starts.
    env: { ...process.env, PATH: `${join(folder, "node_modules/.bin")}:${process.env.PATH}` },
  })
  const files = (root) => readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length)).sort()
  const fresh = join(made, "src/gen")
  const differs = [...new Set([...files(committed), ...files(fresh)])].filter((file) => {
    try {
      return readFileSync(committed + file, "utf8") !== readFileSync(fresh + file, "utf8")
    } catch {
      return true // only on one side
    }
  })
  if (differs.length > 0) {
    console.error(`src/gen is not what the contract makes; run \`npm run generate\`: ${differs.join(", ")}`)
    process.exitCode = 1
  }
} finally {
  rmSync(made, { recursive: true })
}
