//! The contract that was last released against the one that is built.

use std::fs;

use hubbub::wire::DESCRIPTOR;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::{HOW, accepting, comparer::compare, file};

/// As it is committed: without the comments and their places, which are no part of the contract.
fn built() -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(DESCRIPTOR).unwrap();
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set
}

#[test]
fn nothing_of_the_released_contract_is_removed_or_changed() {
    if accepting() {
        fs::write(file("descriptor.bin"), built().encode_to_vec()).unwrap();
    }
    let released = fs::read(file("descriptor.bin")).unwrap();
    let changes = compare(&FileDescriptorSet::decode(released.as_slice()).unwrap(), &built());
    assert!(changes.broken.is_empty(), "\n{}", changes.broken.join("\n"));
    for added in changes.added {
        println!("added: {added}. Once it is released, run `{HOW}`");
    }
}
