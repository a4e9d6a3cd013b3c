/** Frames to events. Pure; this file and `commands.ts` know the generated types, and nobody else does. */
import { create, fromBinary } from "@bufbuild/protobuf"
import { bounded, HubbubError, refusal, type Position } from "./errors.js"
import type { Error as WireError } from "./gen/hubbub/v1/error_pb.js"
import {
  Posting as WirePosting,
  Role as WireRole,
  SettingsSchema,
  Visibility as WireVisibility,
  type Messages,
  type Position as WirePosition,
  type Quota as WireQuota,
  type Record as WireRecord,
  type Settings as WireSettings,
} from "./gen/hubbub/v1/record_pb.js"
import {
  Published_Durability as WireDurability,
  ServerEnvelopeSchema,
  type Channel as WireChannel,
  type Member as WireMember,
  type Presence as WirePresence,
  type Reply as WireReply,
  type ServerEnvelope,
  type Welcome as WireWelcome,
} from "./gen/hubbub/v1/server_pb.js"
import type {
  ChannelInfo,
  Entry,
  EntryBase,
  HistoryPage,
  Member,
  Message,
  PresenceEvent,
  Published,
  Quota,
  Role,
  Settings,
  User,
  Welcome,
} from "./values.js"

/** What a reply brings. */
export type Answer =
  | { kind: "published"; channelId: number; epoch: number; sequence: number; at?: number | undefined; durability: Published["durability"] }
  | { kind: "subscribed"; channelId: number; name: string; epoch: number; head: number }
  | { kind: "unsubscribed" }
  | { kind: "history"; channelId: number; page: HistoryPage }
  | { kind: "authenticated"; expiresAt: number }
  | { kind: "users"; users: User[] }
  | { kind: "channel"; channel: ChannelInfo }
  | { kind: "channels"; channels: ChannelInfo[]; next?: string | undefined }
  | { kind: "channelDeleted" }
  | { kind: "member"; member: Member; channelId: number }
  | { kind: "members"; members: Member[]; next?: string | undefined }
  | { kind: "presence"; presence: PresenceEvent }
  | { kind: "typingSent" }
  | { kind: "readMarker"; position: Position }
  | { kind: "unknown" }

export type AnswerKind = Answer["kind"]

/** What one frame brings. */
export type ServerEvent =
  | { kind: "messages"; channelId: number; entries: Entry[] }
  | { kind: "reply"; id: number; answer: Answer | HubbubError }
  | { kind: "welcome"; welcome: Welcome }
  | { kind: "gap"; channelId: number; from: number; to: number }
  | { kind: "lagging"; outboxBytes: number }
  | { kind: "goingAway"; retryAfterMs: number }
  | { kind: "subscriptionEnded"; channelId: number; error: HubbubError }
  | { kind: "presence"; channelId: number; presence: PresenceEvent }
  | { kind: "typing"; channelId: number; userIds: number[] }
  | { kind: "readMarker"; channelId: number; position: Position }
  | { kind: "unknown" }

/** One frame as an event. Throws a `protocol` error if it is none. */
export function decode(frame: Uint8Array): ServerEvent {
  try {
    return event(fromBinary(ServerEnvelopeSchema, frame).envelope)
  } catch (cause) {
    if (cause instanceof HubbubError) throw cause
    throw new HubbubError("protocol", "a frame could not be decoded", { cause })
  }
}

function event(envelope: ServerEnvelope["envelope"]): ServerEvent {
  switch (envelope.case) {
    case "messages":
      return { kind: "messages", channelId: envelope.value.channelId, entries: entries(envelope.value) }
    case "reply":
      return { kind: "reply", id: envelope.value.id, answer: answer(envelope.value.result) }
    case "welcome":
      return { kind: "welcome", welcome: welcome(envelope.value) }
    case "gap": {
      const { channelId, fromSequence, toSequence } = envelope.value
      return { kind: "gap", channelId, from: integer(fromSequence), to: integer(toSequence) }
    }
    case "lagging":
      return { kind: "lagging", outboxBytes: envelope.value.outboxBytes }
    case "goingAway":
      return { kind: "goingAway", retryAfterMs: bounded(envelope.value.retryAfterMs) }
    case "subscriptionEnded":
      return { kind: "subscriptionEnded", channelId: envelope.value.channelId, error: error(envelope.value.error) }
    case "presence":
      return { kind: "presence", channelId: envelope.value.channelId, presence: presence(envelope.value) }
    case "typing":
      return { kind: "typing", channelId: envelope.value.channelId, userIds: envelope.value.userIds }
    case "readMarker": {
      const { channelId, position } = envelope.value
      return { kind: "readMarker", channelId, position: place(position) }
    }
    case undefined:
      return { kind: "unknown" }
  }
}

function answer(result: WireReply["result"]): Answer | HubbubError {
  switch (result.case) {
    case "error":
      return error(result.value)
    case "published": {
      const { channelId, epoch, timestampMs, durability } = result.value
      return {
        kind: "published",
        channelId,
        epoch,
        sequence: integer(result.value.sequence),
        at: timestampMs === 0n ? undefined : integer(timestampMs),
        durability: DURABILITY[durability] ?? "unknown",
      }
    }
    case "subscribed": {
      const { channelId, channelName, epoch, headSequence } = result.value
      return { kind: "subscribed", channelId, name: channelName, epoch, head: integer(headSequence) }
    }
    case "unsubscribed":
      return { kind: "unsubscribed" }
    case "history": {
      const { channelId, epoch, runs, headSequence } = result.value
      const page = { entries: runs.flatMap(entries), epoch, head: integer(headSequence) }
      return { kind: "history", channelId, page }
    }
    case "authenticated":
      return { kind: "authenticated", expiresAt: integer(result.value.expiresAt) * 1000 }
    case "users":
      return { kind: "users", users: result.value.users.map(({ userId, name }) => ({ id: userId, name })) }
    case "channel":
      return { kind: "channel", channel: channelInfo(result.value) }
    case "channels":
      return { kind: "channels", channels: result.value.channels.map(channelInfo), next: result.value.next || undefined }
    case "channelDeleted":
      return { kind: "channelDeleted" }
    case "member":
      return { kind: "member", member: member(result.value), channelId: result.value.channelId }
    case "members":
      return { kind: "members", members: result.value.members.map(member), next: result.value.next || undefined }
    case "presence":
      return { kind: "presence", presence: presence(result.value) }
    case "typingSent":
      return { kind: "typingSent" }
    case "readMarker":
      return { kind: "readMarker", position: place(result.value.position) }
    case undefined:
      return { kind: "unknown" }
  }
}

function entries(run: Messages): Entry[] {
  const first = integer(run.firstSequence)
  const at = integer(run.timestampMs)
  return run.records.map((record, index) => entry(record, first + index, at))
}

function entry(record: WireRecord, sequence: number, at: number): Entry {
  const { userId, clientMessageId, content, writtenAtMs } = record
  const base: EntryBase = { sequence, at, userId }
  if (writtenAtMs !== 0n) base.writtenAt = integer(writtenAtMs)
  switch (content.case) {
    case "body": {
      const message: Message = { kind: "message", ...base, body: content.value }
      if (clientMessageId !== 0n) message.clientMessageId = String(clientMessageId)
      return message
    }
    case "membership":
      return { kind: "membership", ...base, memberId: content.value.userId, role: ROLE[content.value.role] }
    case "settings":
      return { kind: "settings", ...base, ...settings(content.value) }
    case "deletion":
      return { kind: "deletion", ...base }
    case undefined:
      return { kind: "unknown", ...base }
  }
}

const ROLE: { [role in WireRole]?: Role } = {
  [WireRole.MEMBER]: "member",
  [WireRole.MODERATOR]: "moderator",
  [WireRole.OWNER]: "owner",
}

const DURABILITY: { [durability in WireDurability]?: Published["durability"] } = {
  [WireDurability.FSYNCED]: "fsynced",
  [WireDurability.QUORUM]: "quorum",
  [WireDurability.EPHEMERAL]: "ephemeral",
}

function settings(wire: WireSettings): Settings {
  return {
    name: wire.channelName,
    topic: wire.topic,
    visibility: wire.visibility === WireVisibility.PRIVATE ? "private" : "public",
    posting:
      wire.posting === WirePosting.MODERATORS
        ? "moderators"
        : wire.posting === WirePosting.MEMBERS
          ? "members"
          : "everyone",
    archived: wire.archived,
    quota: wire.quota && quotaOf(wire.quota),
  }
}

function quotaOf(wire: WireQuota): Quota {
  return { messagesMax: integer(wire.messagesMax), bytesMax: integer(wire.bytesMax) }
}

function channelInfo(wire: WireChannel): ChannelInfo {
  const { head } = wire
  return {
    ...settings(wire.settings ?? create(SettingsSchema, { channelName: wire.channelName })),
    id: wire.channelId,
    memberCount: wire.memberCount,
    role: ROLE[wire.role],
    createdAt: integer(wire.createdAtMs),
    used: wire.used && { messages: integer(wire.used.messages), bytes: integer(wire.used.bytes) },
    head: head && place(head),
    // Without a head they say nothing: 0 stands for "not filled".
    readSequence: head && integer(wire.readSequence),
    unreadCount: head && integer(wire.unreadCount),
  }
}

function member({ userId, name, role, sequence }: WireMember): Member {
  return { userId, name, role: ROLE[role], sequence: integer(sequence) }
}

function presence({ userCount, connectionCount, users }: WirePresence): PresenceEvent {
  const counts = { userCount, connectionCount }
  switch (users.case) {
    case "everyone":
      return { ...counts, everyone: users.value.userIds }
    case "changes":
      return { ...counts, changes: { joined: users.value.joined, left: users.value.left } }
    case undefined:
      return counts
  }
}

function welcome(wire: WireWelcome): Welcome {
  return {
    user: { id: wire.userId, name: wire.name },
    expiresAt: integer(wire.expiresAt) * 1000,
    pingIntervalMs: wire.pingIntervalMs,
    pongTimeoutMs: wire.pongTimeoutMs,
    messageBytesMax: wire.messageBytesMax,
    serverVersion: wire.serverVersion,
  }
}

function error(wire: WireError | undefined): HubbubError {
  if (!wire) return refusal(600, "no reason given")
  const head = wire.head && place(wire.head)
  return refusal(wire.code, wire.message, wire.retryAfterMs || undefined, head)
}

function place(wire: WirePosition | undefined): Position {
  return { epoch: wire?.epoch ?? 0, sequence: integer(wire?.sequence ?? 0n) }
}

function integer(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new HubbubError("protocol", `${value} is more than this client can count`)
  }
  return Number(value)
}
