/** `@hubbub/client`: see README.md. */
export { Hubbub } from "./client.js"
export type { ChannelPage, Clock, HubbubEvents, HubbubOptions } from "./client.js"
export type {
  Channel,
  ChannelEvents,
  ChannelListener,
  HistoryOptions,
  PublishOptions,
  SubscribeOptions,
  SubscriptionState,
} from "./channel.js"
export type { ListOptions, NewChannel, PageOptions, SettingsUpdate } from "./commands.js"
export type { ConnectionState } from "./connection.js"
export { HubbubError } from "./errors.js"
export type { ErrorDetails, Position } from "./errors.js"
export type { WebSocketClass, WebSocketLike } from "./socket.js"
export type { TokenReason } from "./token.js"
export type {
  ChannelChange,
  ChannelInfo,
  DeletionChange,
  Entry,
  HistoryPage,
  Member,
  MembershipChange,
  Message,
  Posting,
  Presence,
  Published,
  Quota,
  Role,
  Settings,
  SettingsChange,
  UnknownEntry,
  User,
  Visibility,
  Welcome,
} from "./values.js"
