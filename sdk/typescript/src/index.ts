/** `@hubbub/client`: see README.md. */
export { Hubbub } from "./client.js"
export type {
  ChannelPage,
  Clock,
  ConnectionState,
  HubbubEvents,
  HubbubOptions,
  TokenReason,
} from "./client.js"
export type {
  Channel,
  ChannelEvents,
  ChannelListener,
  HistoryOptions,
  PublishOptions,
  SubscribeOptions,
  SubscriptionState,
} from "./channel.js"
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
} from "./codec.js"
export { HubbubError } from "./errors.js"
export type { ErrorDetails, Position } from "./errors.js"
