// The :shortcodes: that people type most, by the names that GitHub and Slack gave them.

const TABLE =
  "+1 👍 thumbsup 👍 -1 👎 thumbsdown 👎 100 💯 alarm_clock ⏰ angry 😠 apple 🍎 arrow_down ⬇️ arrow_left ⬅️ " +
  "arrow_right ➡️ arrow_up ⬆️ astonished 😲 avocado 🥑 baby 👶 balloon 🎈 banana 🍌 bar_chart 📊 bear 🐻 beer 🍺 " +
  "beers 🍻 bell 🔔 bike 🚲 bird 🐦 birthday 🎂 blue_heart 💙 blush 😊 boat ⛵ bomb 💣 book 📖 books 📚 boom 💥 bow 🙇 " +
  "brain 🧠 bread 🍞 broken_heart 💔 bug 🐛 bulb 💡 bus 🚌 cactus 🌵 cake 🍰 calendar 📅 call_me_hand 🤙 camera 📷 " +
  "car 🚗 cat 🐱 chart_with_upwards_trend 📈 chart_with_downwards_trend 📉 check ✅ cheese 🧀 cherries 🍒 " +
  "cherry_blossom 🌸 chicken 🐔 chocolate_bar 🍫 christmas_tree 🎄 clap 👏 clipboard 📋 cloud ☁️ clown_face 🤡 " +
  "coffee ☕ cold_face 🥶 computer 💻 confetti_ball 🎊 confused 😕 construction 🚧 cookie 🍪 cool 😎 corn 🌽 cow 🐮 " +
  "crab 🦀 credit_card 💳 crossed_fingers 🤞 crown 👑 cry 😢 crying_cat_face 😿 crystal_ball 🔮 dart 🎯 dash 💨 " +
  "disappointed 😞 dizzy 💫 dog 🐶 dolphin 🐬 door 🚪 doughnut 🍩 dragon 🐉 drum 🥁 duck 🦆 ear 👂 earth_africa 🌍 " +
  "earth_americas 🌎 earth_asia 🌏 egg 🥚 elephant 🐘 email 📧 exclamation ❗ exploding_head 🤯 expressionless 😑 " +
  "eye 👁️ eyes 👀 facepalm 🤦 fallen_leaf 🍂 fire 🔥 fireworks 🎆 fish 🐟 fist 👊 flag_white 🏳️ floppy_disk 💾 " +
  "flushed 😳 footprints 👣 four_leaf_clover 🍀 fox_face 🦊 fries 🍟 frog 🐸 frowning 😦 game_die 🎲 gear ⚙️ gem 💎 " +
  "ghost 👻 gift 🎁 goat 🐐 green_heart 💚 grimacing 😬 grin 😁 grinning 😀 guitar 🎸 hammer 🔨 hamster 🐹 " +
  "handshake 🤝 hatching_chick 🐣 headphones 🎧 hear_no_evil 🙉 heart ❤️ heart_eyes 😍 heavy_check_mark ✔️ " +
  "hedgehog 🦔 herb 🌿 hibiscus 🌺 horse 🐴 hot_face 🥵 hourglass ⌛ house 🏠 hugs 🤗 hushed 😯 icecream 🍦 " +
  "inbox_tray 📥 innocent 😇 jack_o_lantern 🎃 joy 😂 key 🔑 keyboard ⌨️ kissing_heart 😘 kiwi_fruit 🥝 label 🏷️ " +
  "laughing 😆 leaves 🍃 lemon 🍋 link 🔗 lion 🦁 lock 🔒 loudspeaker 📢 mag 🔍 mailbox 📫 mask 😷 memo 📝 " +
  "microphone 🎤 microscope 🔬 milky_way 🌌 money_with_wings 💸 monkey 🐒 monkey_face 🐵 moon 🌙 mountain ⛰️ " +
  "mouse 🐭 muscle 💪 mushroom 🍄 musical_note 🎵 nerd_face 🤓 neutral_face 😐 new 🆕 no_entry ⛔ no_good 🙅 " +
  "notebook 📓 ocean 🌊 octopus 🐙 ok ✅ ok_hand 👌 open_mouth 😮 orange_heart 🧡 owl 🦉 package 📦 palm_tree 🌴 " +
  "panda_face 🐼 paperclip 📎 partying_face 🥳 peach 🍑 pear 🍐 penguin 🐧 pensive 😔 phone ☎️ pig 🐷 " +
  "pinched_fingers 🤌 pinching_hand 🤏 pineapple 🍍 pizza 🍕 point_down 👇 point_left 👈 point_right 👉 " +
  "point_up ☝️ popcorn 🍿 pouting_cat 😾 pray 🙏 purple_heart 💜 pushpin 📌 question ❓ rabbit 🐰 rage 😡 rainbow 🌈 " +
  "raised_hands 🙌 raising_hand 🙋 recycle ♻️ relaxed ☺️ relieved 😌 robot 🤖 rocket 🚀 rofl 🤣 roll_eyes 🙄 " +
  "rose 🌹 rotating_light 🚨 runner 🏃 salute 🫡 scissors ✂️ scream 😱 see_no_evil 🙈 seedling 🌱 shark 🦈 sheep 🐑 " +
  "ship 🚢 shrug 🤷 skull 💀 sleeping 😴 sleepy 😪 slightly_smiling_face 🙂 sloth 🦥 smile 😄 smiley 😃 smirk 😏 " +
  "snail 🐌 snake 🐍 snowflake ❄️ snowman ⛄ sob 😭 soccer ⚽ sparkles ✨ sparkling_heart 💖 speak_no_evil 🙊 " +
  "speech_balloon 💬 star ⭐ star_struck 🤩 stop_sign 🛑 strawberry 🍓 stuck_out_tongue 😛 sun_with_face 🌞 " +
  "sunflower 🌻 sunglasses 😎 sunny ☀️ sunrise 🌅 sweat 😓 sweat_smile 😅 taco 🌮 tada 🎉 tea 🍵 telescope 🔭 " +
  "test_tube 🧪 thinking 🤔 ticket 🎫 tiger 🐯 toolbox 🧰 tools 🛠️ train 🚆 triumph 😤 trophy 🏆 truck 🚚 tulip 🌷 " +
  "turtle 🐢 umbrella ☔ unamused 😒 unicorn 🦄 unlock 🔓 upside_down_face 🙃 v ✌️ video_game 🎮 warning ⚠️ " +
  "wastebasket 🗑️ watch ⌚ watermelon 🍉 wave 👋 weary 😩 whale 🐳 white_check_mark ✅ wine_glass 🍷 wink 😉 wolf 🐺 " +
  "woozy_face 🥴 worried 😟 wrench 🔧 writing_hand ✍️ x ❌ yawning_face 🥱 yellow_heart 💛 yum 😋 zany_face 🤪 " +
  "zap ⚡ zipper_mouth_face 🤐 zzz 💤 ";

/** Shortcode without its colons → the emoji. */
export const EMOJI: ReadonlyMap<string, string> = pairs(TABLE);

function pairs(table: string): Map<string, string> {
  const words = table.trim().split(" ");
  const map = new Map<string, string>();
  for (let i = 0; i + 1 < words.length; i += 2) map.set(words[i]!, words[i + 1]!);
  return map;
}
