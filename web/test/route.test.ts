import assert from "node:assert/strict";
import { test } from "node:test";
import { route } from "../src/route";

test("an address names a channel, or a message of one", () => {
  assert.deepEqual(route("#lobby"), { channel: "lobby", sequence: undefined });
  assert.deepEqual(route("#release-notes_2.x/812"), { channel: "release-notes_2.x", sequence: 812 });
});

test("an address that names nothing is nothing", () => {
  for (const hash of ["", "#", "#Lobby", "#a b", "#lobby/0", "#lobby/x", "#lobby/1/2", `#${"a".repeat(65)}`, "#<img>", "#lobby/99999999999999999"]) {
    assert.deepEqual(route(hash), { channel: undefined, sequence: undefined }, hash);
  }
});
