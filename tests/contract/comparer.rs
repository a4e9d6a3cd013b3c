//! Two descriptor sets → what broke between them, and what was added.
//!
//! Names count as much as numbers: the JSON encoding and generated code are made of them.

use std::collections::BTreeMap;

use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// What happened to a contract.
#[derive(Default, Debug)]
pub(crate) struct Changes {
    /// What a client of the old contract would stumble over, a sentence each.
    pub(crate) broken: Vec<String>,
    /// What it would not notice.
    pub(crate) added: Vec<String>,
}

/// Compares a released contract with a later one.
pub(crate) fn compare(released: &FileDescriptorSet, now: &FileDescriptorSet) -> Changes {
    let (released, now) = (Names::of(released), Names::of(now));
    let mut changes = Changes::default();
    for (name, message) in &released.messages {
        match now.messages.get(name) {
            Some(other) => changes.fields(name, message, other),
            None => changes.broken.push(format!("message {name} is gone")),
        }
    }
    for (name, old) in &released.enums {
        match now.enums.get(name) {
            Some(other) => changes.values(name, old, other),
            None => changes.broken.push(format!("enum {name} is gone")),
        }
    }
    let new_messages = now.messages.keys().filter(|name| !released.messages.contains_key(*name));
    changes.added.extend(new_messages.map(|name| format!("message {name}")));
    let new_enums = now.enums.keys().filter(|name| !released.enums.contains_key(*name));
    changes.added.extend(new_enums.map(|name| format!("enum {name}")));
    changes
}

impl Changes {
    fn fields(&mut self, message: &str, old: &DescriptorProto, new: &DescriptorProto) {
        for field in &old.field {
            let (number, name) = (field.number(), field.name());
            let place = format!("field {number} `{name}` of {message}");
            let Some(other) = new.field.iter().find(|other| other.number() == number) else {
                let moved = new.field.iter().find(|other| other.name() == name);
                self.broken.push(match moved {
                    Some(moved) => format!("{place} was renumbered to {}", moved.number()),
                    None => format!("{place} is gone; deprecate it, and leave it where it is"),
                });
                continue;
            };
            let mut same = |what: &str, old: String, new: String| {
                if old != new {
                    self.broken.push(format!("the {what} of {place} was {old} and is {new}"));
                }
            };
            same("name", name.to_owned(), other.name().to_owned());
            same("JSON name", field.json_name().to_owned(), other.json_name().to_owned());
            same("type", type_of(field), type_of(other));
            same("label", format!("{:?}", field.label()), format!("{:?}", other.label()));
            same("oneof", oneof_of(old, field), oneof_of(new, other));
        }
        for field in &new.field {
            if old.field.iter().all(|other| other.number() != field.number()) {
                self.added.push(format!(
                    "field {} `{}` of {message}",
                    field.number(),
                    field.name()
                ));
            }
        }
    }

    fn values(&mut self, name: &str, old: &EnumDescriptorProto, new: &EnumDescriptorProto) {
        for value in &old.value {
            let place = format!("value {} `{}` of {name}", value.number(), value.name());
            match new.value.iter().find(|other| other.number() == value.number()) {
                None => self.broken.push(format!("{place} is gone")),
                Some(other) if other.name() != value.name() => {
                    self.broken.push(format!("{place} is now `{}`", other.name()));
                }
                Some(_) => {}
            }
        }
        for value in &new.value {
            if old.value.iter().all(|other| other.number() != value.number()) {
                self.added.push(format!("value {} `{}` of {name}", value.number(), value.name()));
            }
        }
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    format!("{:?} {}", field.r#type(), field.type_name()).trim_end().to_owned()
}

fn oneof_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let index = field.oneof_index.and_then(|index| usize::try_from(index).ok());
    let oneof = index.and_then(|index| message.oneof_decl.get(index));
    oneof.map_or_else(|| "none".to_owned(), |oneof| format!("`{}`", oneof.name()))
}

/// Every message and enum by its full name, nested ones included.
#[derive(Default)]
struct Names<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

impl<'a> Names<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut names = Self::default();
        for file in &set.file {
            names.take(file.package(), &file.message_type, &file.enum_type);
        }
        names
    }

    fn take(
        &mut self,
        within: &str,
        messages: &'a [DescriptorProto],
        enums: &'a [EnumDescriptorProto],
    ) {
        for message in messages {
            let name = format!("{within}.{}", message.name());
            self.take(&name, &message.nested_type, &message.enum_type);
            self.messages.insert(name, message);
        }
        for one in enums {
            self.enums.insert(format!("{within}.{}", one.name()), one);
        }
    }
}

mod tests {
    //! Each rule, on the real contract with one thing changed.

    use hubbub::wire::DESCRIPTOR;
    use prost::Message;
    use prost_types::{
        DescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
        field_descriptor_proto::{Label, Type},
    };

    use super::{Changes, compare};

    fn real() -> FileDescriptorSet {
        FileDescriptorSet::decode(DESCRIPTOR).unwrap()
    }

    fn after(change: impl FnOnce(&mut FileDescriptorSet)) -> Changes {
        let mut changed = real();
        change(&mut changed);
        compare(&real(), &changed)
    }

    fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
        let mut messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
        messages.find(|message| message.name() == name).unwrap()
    }

    fn field<'a>(
        set: &'a mut FileDescriptorSet,
        of: &str,
        name: &str,
    ) -> &'a mut FieldDescriptorProto {
        message(set, of).field.iter_mut().find(|field| field.name() == name).unwrap()
    }

    #[track_caller]
    fn breaks(change: impl FnOnce(&mut FileDescriptorSet), because: &str) {
        let changes = after(change);
        assert_eq!(changes.broken, [because]);
    }

    #[test]
    fn the_same_contract_has_no_changes() {
        let changes = after(|_| {});
        assert!(changes.broken.is_empty() && changes.added.is_empty(), "{changes:?}");
    }

    #[test]
    fn a_removed_field_is_named() {
        breaks(
            |set| message(set, "Publish").field.retain(|field| field.name() != "body"),
            "field 4 `body` of hubbub.v1.Publish is gone; deprecate it, and leave it where it is",
        );
    }

    #[test]
    fn a_renumbered_field_is_named() {
        breaks(
            |set| field(set, "Publish", "body").number = Some(9),
            "field 4 `body` of hubbub.v1.Publish was renumbered to 9",
        );
    }

    #[test]
    fn a_renamed_field_is_named() {
        breaks(
            |set| field(set, "Publish", "body").name = Some("text".to_owned()),
            "the name of field 4 `body` of hubbub.v1.Publish was body and is text",
        );
    }

    #[test]
    fn another_type_or_label_is_named() {
        breaks(
            |set| field(set, "Publish", "body").set_type(Type::Bytes),
            "the type of field 4 `body` of hubbub.v1.Publish was String and is Bytes",
        );
        breaks(
            |set| field(set, "Publish", "body").set_label(Label::Repeated),
            "the label of field 4 `body` of hubbub.v1.Publish was Optional and is Repeated",
        );
        breaks(
            |set| {
                field(set, "Subscribe", "since").type_name = Some(".hubbub.v1.Record".to_owned());
            },
            "the type of field 3 `since` of hubbub.v1.Subscribe was Message .hubbub.v1.Position \
             and is Message .hubbub.v1.Record",
        );
    }

    #[test]
    fn a_field_that_leaves_its_oneof_is_named() {
        breaks(
            |set| field(set, "Record", "body").oneof_index = None,
            "the oneof of field 3 `body` of hubbub.v1.Record was `content` and is none",
        );
    }

    #[test]
    fn a_removed_or_renamed_enum_value_is_named() {
        let values = |set: &mut FileDescriptorSet,
                      change: fn(&mut Vec<EnumValueDescriptorProto>)| {
            change(&mut message(set, "Error").enum_type[0].value);
        };
        breaks(
            |set| values(set, |values| values.retain(|value| value.number() != 500)),
            "value 500 `BUSY` of hubbub.v1.Error.Code is gone",
        );
        breaks(
            |set| {
                values(set, |values| {
                    let busy = values.iter_mut().find(|value| value.number() == 500).unwrap();
                    busy.name = Some("OCCUPIED".to_owned());
                });
            },
            "value 500 `BUSY` of hubbub.v1.Error.Code is now `OCCUPIED`",
        );
    }

    #[test]
    fn a_removed_message_or_enum_is_named() {
        breaks(
            |set| {
                for file in &mut set.file {
                    file.message_type.retain(|message| message.name() != "Lagging");
                }
            },
            "message hubbub.v1.Lagging is gone",
        );
        breaks(
            |set| message(set, "Published").enum_type.clear(),
            "enum hubbub.v1.Published.Durability is gone",
        );
    }

    #[test]
    fn what_is_added_passes_and_is_told() {
        let changes = after(|set| {
            let mut field = field(set, "Publish", "body").clone();
            field.number = Some(77);
            field.name = Some("mood".to_owned());
            message(set, "Publish").field.push(field);
            message(set, "Error").enum_type[0].value.push(EnumValueDescriptorProto {
                name: Some("TIRED".to_owned()),
                number: Some(699),
                options: None,
            });
            let file = set.file.iter_mut().find(|file| file.package() == "hubbub.v1").unwrap();
            file.message_type.push(DescriptorProto {
                name: Some("Mood".to_owned()),
                ..DescriptorProto::default()
            });
        });
        assert_eq!(changes.broken, Vec::<String>::new());
        let added = [
            "field 77 `mood` of hubbub.v1.Publish",
            "value 699 `TIRED` of hubbub.v1.Error.Code",
            "message hubbub.v1.Mood",
        ];
        assert_eq!(changes.added, added);
    }
}
