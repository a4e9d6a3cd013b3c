/** Commands to frames. Pure; this file and `codec.ts` know the generated types, and nobody else does. */
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf"
import type { AnswerKind } from "./codec.js"
import { HubbubError, type Position } from "./errors.js"
import { ClientEnvelopeSchema } from "./gen/hubbub/v1/client_pb.js"
import { Posting as WirePosting, Role as WireRole, Visibility as WireVisibility } from "./gen/hubbub/v1/record_pb.js"
import type { Posting, Quota, Role, Visibility } from "./values.js"

/** How a command names its channel. */
export type ChannelRef = { id: number } | { name: string }

export interface SettingsUpdate {
  /** A new name. */
  name?: string | undefined
  topic?: string | undefined
  visibility?: Visibility | undefined
  posting?: Posting | undefined
  archived?: boolean | undefined
  /** New bounds. Only a channel that was made with a quota has one, and keeps it. */
  quota?: Quota | undefined
}

export interface NewChannel {
  name: string
  topic?: string | undefined
  /** Public, if you do not say. */
  visibility?: Visibility | undefined
  /** Everyone, if you do not say. */
  posting?: Posting | undefined
  quota?: Quota | undefined
}

/** Where a list goes on (the `next` of the page before), and how many at most. */
export interface PageOptions {
  after?: string | undefined
  limit?: number | undefined
}

export interface ListOptions extends PageOptions {
  prefix?: string | undefined
  /** Only archived ones, or only others. */
  archived?: boolean | undefined
}

type WireRef = { case: "channelId"; value: number } | { case: "channelName"; value: string }
type WireCommand = Extract<NonNullable<MessageInitShape<typeof ClientEnvelopeSchema>["command"]>, { case: string }>

/** A command, and the kind of answer that fits it. */
export interface Command<K extends AnswerKind = AnswerKind> {
  readonly answer: K
  readonly wire: WireCommand
}

/** The commands. */
export const commands = {
  authenticate: (token: string) => command("authenticated", { case: "authenticate", value: { token } }),
  publish: (channel: ChannelRef, clientMessageId: string, body: string) =>
    command("published", {
      case: "publish",
      value: { channel: ref(channel), clientMessageId: messageId(clientMessageId), body },
    }),
  subscribe: (channel: ChannelRef, since: Position | undefined, ephemeral: boolean) =>
    command("subscribed", {
      case: "subscribe",
      value: { channel: ref(channel), ephemeral, ...(since && { since: position(since) }) },
    }),
  unsubscribe: (channelId: number) => command("unsubscribed", { case: "unsubscribe", value: { channelId } }),
  history: (channel: ChannelRef, before: number | undefined, after: number | undefined, limit = 0) => {
    const from =
      before !== undefined
        ? ({ case: "beforeSequence", value: sequence(before) } as const)
        : after !== undefined
          ? ({ case: "afterSequence", value: sequence(after) } as const)
          : ({ case: undefined } as const)
    return command("history", { case: "history", value: { channel: ref(channel), from, limit } })
  },
  users: (userIds: number[]) => command("users", { case: "users", value: { userIds } }),
  findUsers: (name: string) => command("users", { case: "findUsers", value: { name } }),
  createChannel: (channel: NewChannel) =>
    command("channel", {
      case: "createChannel",
      value: {
        channelName: channel.name,
        topic: channel.topic ?? "",
        visibility: visibility(channel.visibility),
        posting: posting(channel.posting),
        ...(channel.quota && { quota: quota(channel.quota) }),
      },
    }),
  getChannel: (channel: ChannelRef) =>
    command("channel", { case: "getChannel", value: { channel: ref(channel) } }),
  listChannels: ({ prefix = "", after, limit = 0, archived }: ListOptions) =>
    command("channels", {
      case: "listChannels",
      value: { prefix, after: after ?? "", limit, ...(archived !== undefined && { archived }) },
    }),
  listMemberships: ({ after, limit = 0 }: PageOptions) =>
    command("channels", { case: "listMemberships", value: { after: after ?? "", limit } }),
  updateChannel: (channel: ChannelRef, changes: SettingsUpdate) =>
    command("channel", {
      case: "updateChannel",
      value: {
        channel: ref(channel),
        visibility: visibility(changes.visibility),
        posting: posting(changes.posting),
        ...(changes.name !== undefined && { newName: changes.name }),
        ...(changes.topic !== undefined && { topic: changes.topic }),
        ...(changes.archived !== undefined && { archived: changes.archived }),
        ...(changes.quota && { quota: quota(changes.quota) }),
      },
    }),
  deleteChannel: (channel: ChannelRef) =>
    command("channelDeleted", { case: "deleteChannel", value: { channel: ref(channel) } }),
  join: (channel: ChannelRef) => command("member", { case: "join", value: { channel: ref(channel) } }),
  leave: (channel: ChannelRef) => command("member", { case: "leave", value: { channel: ref(channel) } }),
  setMember: (channel: ChannelRef, userId: number, to: Role | undefined) =>
    command("member", { case: "setMember", value: { channel: ref(channel), userId, role: role(to) } }),
  removeMember: (channel: ChannelRef, userId: number) =>
    command("member", { case: "removeMember", value: { channel: ref(channel), userId } }),
  listMembers: (channel: ChannelRef, { after, limit = 0 }: PageOptions) =>
    command("members", { case: "listMembers", value: { channel: ref(channel), after: after ?? "", limit } }),
  getPresence: (channel: ChannelRef) =>
    command("presence", { case: "getPresence", value: { channel: ref(channel) } }),
  sendTyping: (channel: ChannelRef) =>
    command("typingSent", { case: "sendTyping", value: { channel: ref(channel) } }),
  markRead: (channel: ChannelRef, to: Position) =>
    command("readMarker", { case: "markRead", value: { channel: ref(channel), position: position(to) } }),
}

/** One command as a frame. A number that does not fit its field is an `invalid_argument`. */
export function encode(id: number, { wire }: Command): Uint8Array<ArrayBuffer> {
  try {
    return toBinary(ClientEnvelopeSchema, create(ClientEnvelopeSchema, { id, command: wire }))
  } catch (cause) {
    throw new HubbubError("invalid_argument", "the command cannot be encoded", { cause })
  }
}

/** 63 random bits, and not 0. */
export function newMessageId(): string {
  const bits = crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n
  return String(bits >> 1n || 1n)
}

function command<K extends AnswerKind>(answer: K, wire: WireCommand): Command<K> {
  return { answer, wire }
}

function ref(channel: ChannelRef): WireRef {
  return "id" in channel
    ? { case: "channelId", value: channel.id }
    : { case: "channelName", value: channel.name }
}

function position({ epoch, sequence: last }: Position): { epoch: number; sequence: bigint } {
  return { epoch, sequence: sequence(last) }
}

function sequence(value: number): bigint {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new HubbubError("invalid_argument", `${value} is no sequence`)
  }
  return BigInt(value)
}

function messageId(decimal: string): bigint {
  const value = /^[0-9]{1,20}$/.test(decimal) ? BigInt(decimal) : 0n
  if (value === 0n || value > 0xffff_ffff_ffff_ffffn) {
    throw new HubbubError("invalid_argument", `${decimal} is no client message id`)
  }
  return value
}

function quota({ messagesMax, bytesMax }: Quota): { messagesMax: bigint; bytesMax: bigint } {
  return { messagesMax: sequence(messagesMax), bytesMax: sequence(bytesMax) }
}

function visibility(value: Visibility | undefined): WireVisibility {
  if (value === undefined) return WireVisibility.VISIBILITY_UNSPECIFIED
  return value === "private" ? WireVisibility.PRIVATE : WireVisibility.PUBLIC
}

function posting(value: Posting | undefined): WirePosting {
  if (value === undefined) return WirePosting.POSTING_UNSPECIFIED
  return { everyone: WirePosting.EVERYONE, members: WirePosting.MEMBERS, moderators: WirePosting.MODERATORS }[value]
}

function role(value: Role | undefined): WireRole {
  if (value === undefined) return WireRole.ROLE_UNSPECIFIED
  return { member: WireRole.MEMBER, moderator: WireRole.MODERATOR, owner: WireRole.OWNER }[value]
}
