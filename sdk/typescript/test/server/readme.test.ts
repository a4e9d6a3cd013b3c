/** The README's example, as it is pasted, on the package as it is built. */
import assert from "node:assert/strict"
import { execFile } from "node:child_process"
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { test } from "node:test"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Server, SKIP } from "./server.js"

// Within the package, so that it finds the package by its name.
const FOLDER = new URL("../../readme/", import.meta.url)

test("the README's example prints what the README says", { skip: SKIP }, async () => {
  const readme = await readFile(new URL("../../../README.md", import.meta.url), "utf8")
  const [, example = ""] = /```ts\n([^]*?)```/.exec(readme) ?? []
  const [, printed] = /```text\n([^]*?)```/.exec(readme) ?? []
  const server = await Server.start()
  try {
    assert.ok(example.includes("127.0.0.1:7878"))
    const file = fileURLToPath(new URL("example.mjs", FOLDER))
    await mkdir(FOLDER, { recursive: true })
    await writeFile(file, example.replace("127.0.0.1:7878", server.address))
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [file], { timeout: 15_000 })
    assert.deepEqual([stdout, stderr], [printed, ""])
  } finally {
    await server.stop()
  }
})
