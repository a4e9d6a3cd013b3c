/** What the server says, as values: the types that users of this package see. */
import type { Position } from "./errors.js"

export type Visibility = "public" | "private"
export type Posting = "everyone" | "members" | "moderators"
export type Role = "member" | "moderator" | "owner"

export interface User {
  id: number
  name: string
}

/** What a channel accepts in its whole life; 0: any number. */
export interface Quota {
  messagesMax: number
  bytesMax: number
}

/** What a channel is, apart from its members. */
export interface Settings {
  name: string
  topic: string
  visibility: Visibility
  posting: Posting
  archived: boolean
  quota?: Quota | undefined
}

/** A channel as the server describes it to who asks. */
export interface ChannelInfo extends Settings {
  id: number
  memberCount: number
  /** What who asks is in it; absent: no member. */
  role?: Role | undefined
  /** In milliseconds since 1970. */
  createdAt: number
  used?: { messages: number; bytes: number } | undefined
  /** Its newest message. This and the next two: in the list of memberships. */
  head?: Position | undefined
  /** The last that the user has read. */
  readSequence?: number | undefined
  unreadCount?: number | undefined
}

export interface Member {
  userId: number
  /** Filled in lists. */
  name: string
  /** Absent: no member. */
  role?: Role | undefined
  /** The sequence of the change; 0 when nothing changed. */
  sequence: number
}

export interface EntryBase {
  sequence: number
  /** When the server put it in order, in milliseconds since 1970. */
  at: number
  /** Who wrote or did it. */
  userId: number
  /** Of an imported entry: when it was written, in milliseconds since 1970. It changes nothing. */
  writtenAt?: number | undefined
}

export interface Message extends EntryBase {
  kind: "message"
  body: string
  /** A decimal string; absent when the client gave none. */
  clientMessageId?: string | undefined
}

/** `memberId` has this role from here on; no role: is no member any more. */
export interface MembershipChange extends EntryBase {
  kind: "membership"
  memberId: number
  role?: Role | undefined
}

/** The channel has these settings from here on. */
export interface SettingsChange extends EntryBase, Settings {
  kind: "settings"
}

/** The channel is no more. */
export interface DeletionChange extends EntryBase {
  kind: "deletion"
}

/** Of a later version of the server: it has its sequence, and is to be skipped. */
export interface UnknownEntry extends EntryBase {
  kind: "unknown"
}

export type ChannelChange = MembershipChange | SettingsChange | DeletionChange
export type Entry = Message | ChannelChange | UnknownEntry

export interface Published {
  epoch: number
  sequence: number
  /** Absent when the message had been published before by the same `clientMessageId`. */
  at?: number | undefined
  clientMessageId: string
  durability: "fsynced" | "quorum" | "ephemeral" | "unknown"
}

export interface HistoryPage {
  /** Ascending, without a hole. */
  entries: Entry[]
  epoch: number
  /** The channel's newest sequence when the page was read. */
  head: number
}

/** Who is in a channel: users who are subscribed to it, on any connection. */
export interface Presence {
  userCount: number
  connectionCount: number
  /** Ascending. Undefined: not known, or too many to name. */
  userIds: number[] | undefined
}

export interface Welcome {
  user: User
  /** When the token runs out, in milliseconds since 1970. */
  expiresAt: number
  pingIntervalMs: number
  pongTimeoutMs: number
  messageBytesMax: number
  serverVersion: string
}

/** A presence as it comes: all, or what changed, or neither: too many to name. */
export interface PresenceEvent {
  userCount: number
  connectionCount: number
  everyone?: number[] | undefined
  changes?: { joined: number[]; left: number[] } | undefined
}
