/** Presence, typing and read markers against the real server. */
import assert from "node:assert/strict"
import { after, afterEach, before, test } from "node:test"
import { WebSocket } from "ws"
import { Hubbub, HubbubError, type Position, type Presence } from "../../src/index.js"
import { Server, SKIP } from "./server.js"

let server: Server
let chats: Hubbub[] = []

before(async () => {
  if (!SKIP) server = await Server.start()
})
after(async () => {
  if (!SKIP) await server.stop()
})
afterEach(() => {
  for (const chat of chats) chat.disconnect()
  chats = []
})

function hubbub(token: string): Hubbub {
  const chat = new Hubbub(server.url, {
    getToken: async () => token,
    WebSocket,
  })
  chats.push(chat)
  return chat
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = Date.now() + 8_000; !holds(); ) {
    if (Date.now() > end) throw new Error(`in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

test("who is in a channel is told, and kept current", { skip: SKIP }, async () => {
  const ada = hubbub((await server.login()).token)
  const { token } = await server.login()
  const [grace, tab] = [hubbub(token), hubbub(token)]
  await ada.createChannel({ name: "people" })
  const room = ada.channel("people")
  const told: Presence[] = []
  room.on("presence", (presence) => told.push(presence))
  await room.subscribe({ ephemeral: true })
  const shows = (users: (number | undefined)[], connections: number) => () =>
    room.presence.connectionCount === connections && String(room.presence.userIds) === String(users)
  await until("me", shows([ada.user?.id], 1))
  await grace.channel("people").subscribe()
  await until("both", shows([ada.user?.id, grace.user?.id], 2))
  await tab.channel("people").subscribe()
  await until("a second tab", shows([ada.user?.id, grace.user?.id], 3))
  assert.deepEqual(await grace.channel("people").getPresence(), room.presence)
  await tab.channel("people").unsubscribe()
  grace.disconnect()
  await until("me alone", shows([ada.user?.id], 1))
  assert.ok(told.length >= 4)
})

test("who is writing is told to others, and not to the own user", { skip: SKIP }, async () => {
  const [ada, grace] = [hubbub((await server.login()).token), hubbub((await server.login()).token)]
  await ada.createChannel({ name: "writers" })
  const typing: number[][] = [[], []]
  for (const [index, chat] of [ada, grace].entries()) {
    chat.channel("writers").on("typing", ({ userIds }) => typing[index]?.push(...userIds))
    await chat.channel("writers").subscribe({ ephemeral: true })
  }
  ada.channel("writers").typing()
  ada.channel("writers").typing()
  await until("typing", () => typing[1]?.length === 1)
  assert.deepEqual(typing, [[], [ada.user?.id]])
})

test("what was read is counted, and the other tabs hear of it", { skip: SKIP }, async () => {
  const { token } = await server.login()
  const [tab, other] = [hubbub(token), hubbub(token)]
  await tab.createChannel({ name: "read" })
  const room = tab.channel("read")
  const heard: Position[] = []
  const own: Position[] = []
  room.on("readMarker", ({ position }) => own.push(position))
  other.channel("read").on("readMarker", ({ position }) => heard.push(position))
  await room.subscribe({ ephemeral: true })
  await other.channel("read").subscribe({ ephemeral: true })
  for (let number = 1; number <= 5; number += 1) await room.publish(`${number}`)
  const unread = async () => {
    const [channel] = (await tab.memberships()).channels.filter(({ name }) => name === "read")
    return [channel?.head?.sequence, channel?.readSequence, channel?.unreadCount]
  }
  assert.deepEqual(await unread(), [5, 0, 5])
  await Promise.all([1, 2, 3, 2].map((sequence) => room.markRead(sequence)))
  assert.deepEqual(await unread(), [5, 3, 2])
  await until("the other tab", () => heard.at(-1)?.sequence === 3)
  assert.deepEqual(own, [])
  const ahead = await room.markRead(9).catch((error: unknown) => error)
  assert.ok(ahead instanceof HubbubError)
  assert.deepEqual([ahead.code, ahead.head?.sequence], ["position_ahead", 5])
})
