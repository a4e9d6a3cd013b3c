//! A password → its argon2id hash, as a PHC string; and back: does this password belong to it?
//! Pure: the salt and the memory are the caller's.

use std::sync::Arc;

use argon2::{
    Algorithm, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::common_passwords;
use crate::limits;

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// What one hash costs. The default is OWASP's minimum: 19 MiB, two passes, one lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cost {
    /// Memory that one hash fills.
    pub memory: ByteSize,
    /// How often it is filled.
    pub passes: u32,
    /// Lanes. More than one costs more, and is no faster here: one hash has one thread.
    pub lanes: u32,
}

impl Default for Cost {
    fn default() -> Self {
        Self { memory: ByteSize::mib(19), passes: 2, lanes: 1 }
    }
}

impl Cost {
    /// The parameters for argon2.
    ///
    /// # Errors
    /// When the cost is above our ceiling or below what argon2 takes.
    fn params(self) -> Result<Params, HashError> {
        let memory_kib =
            u32::try_from(self.memory.as_u64() / 1024).map_err(|_| HashError::CostTooHigh)?;
        let params =
            Params::new(memory_kib, self.passes, self.lanes, Some(Params::DEFAULT_OUTPUT_LEN))
                .map_err(|_| HashError::CostTooLow)?;
        check_ceiling(&params)?;
        Ok(params)
    }

    /// Whether passwords can be hashed at this cost.
    ///
    /// # Errors
    /// As [`hash`].
    pub fn check(self) -> Result<(), HashError> {
        self.params().map(|_| ())
    }
}

/// A password that obeys the rules: 8 to 1024 bytes, taken verbatim. Never printed. Clones share the
/// one copy in memory.
#[derive(Clone)]
pub struct Password(Arc<str>);

impl Password {
    /// Takes a password as it is: nothing is trimmed, folded or normalised.
    ///
    /// # Errors
    /// When it is too short or too long. A longer one costs no hash.
    pub fn new(password: String) -> Result<Self, PasswordRuleError> {
        if password.len() < limits::PASSWORD_BYTES_MIN {
            return Err(PasswordRuleError::TooShort);
        }
        if password.len() > limits::PASSWORD_BYTES_MAX {
            return Err(PasswordRuleError::TooLong);
        }
        Ok(Self(password.into()))
    }

    /// Takes a password that a user chooses: one that nobody would guess first, so none of the
    /// [most common ones](super::common_passwords) and not the user name, in upper or lower case. A
    /// login does not ask this, since a stored password may be older than the rule.
    ///
    /// # Errors
    /// As [`Password::new`], and when it is common.
    pub fn for_new(password: String, username: &str) -> Result<Self, PasswordRuleError> {
        let password = Self::new(password)?;
        if password.0.eq_ignore_ascii_case(username) || common_passwords::contains(&password.0) {
            return Err(PasswordRuleError::Common);
        }
        Ok(password)
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why a password is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PasswordRuleError {
    /// Fewer bytes than allowed.
    #[error("a password has at least {} bytes", limits::PASSWORD_BYTES_MIN)]
    TooShort,
    /// More bytes than allowed.
    #[error("a password has at most {} bytes", limits::PASSWORD_BYTES_MAX)]
    TooLong,
    /// It is among the first that anybody would try.
    #[error("the password is among the most common ones, or the user name")]
    Common,
}

/// Why a password could not be hashed or compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HashError {
    /// The stored hash is not an argon2id hash that we could have made.
    #[error("the stored hash is malformed")]
    Malformed,
    /// More memory, passes or lanes than we ever spend on one hash.
    #[error("the cost is above the ceiling of one hash")]
    CostTooHigh,
    /// Less than argon2 takes.
    #[error("the cost is below what argon2 takes")]
    CostTooLow,
}

/// The memory that hashes fill, kept between them: allocating 19 MiB for each would fault in 4,864
/// pages each time.
#[derive(Debug, Default)]
pub struct Memory(Vec<Block>);

impl Memory {
    fn blocks(&mut self, params: &Params) -> &mut [Block] {
        let needed = params.block_count();
        if self.0.len() < needed {
            // Not twice what there is: workers hold what a hash needs, and no more.
            self.0.reserve_exact(needed - self.0.len());
            self.0.resize_with(needed, Block::new);
        }
        &mut self.0[..needed]
    }

    /// Gives back what a stored hash of a higher cost needed beyond `cost`.
    pub fn shrink_to(&mut self, cost: Cost) {
        if let Ok(params) = cost.params()
            && self.0.len() > params.block_count()
        {
            self.0.truncate(params.block_count());
            self.0.shrink_to_fit();
        }
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.0.capacity() * Block::SIZE) as u64
    }
}

/// What a comparison found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The password is the one of the stored hash.
    pub matches: bool,
    /// It is, but the hash was made at another cost than is current: it had better be made anew,
    /// while the password is at hand.
    pub outdated: bool,
}

/// Hashes a password into a PHC string.
///
/// # Errors
/// When the cost is out of range.
pub fn hash(
    password: &Password,
    salt: &[u8; SALT_BYTES],
    cost: Cost,
    memory: &mut Memory,
) -> Result<String, HashError> {
    let params = cost.params()?;
    let output = fill(password, salt, &params, Params::DEFAULT_OUTPUT_LEN, memory)?;
    let phc = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| HashError::Malformed)?,
        salt: Some(Salt::new(salt).map_err(|_| HashError::Malformed)?),
        hash: Some(output),
    };
    Ok(phc.to_string())
}

/// Whether the password is the one of the stored hash, and that hash of the current cost. Takes the
/// same time whether it is or not.
///
/// # Errors
/// When the stored hash is malformed or asks for more than we spend on any hash.
pub fn verify(
    password: &Password,
    stored: &str,
    current: Cost,
    memory: &mut Memory,
) -> Result<Verdict, HashError> {
    let phc = PasswordHash::new(stored).map_err(|_| HashError::Malformed)?;
    let version = phc.version == Some(Version::V0x13.into());
    if phc.algorithm != Algorithm::Argon2id.ident() || !version {
        return Err(HashError::Malformed);
    }
    let params = Params::try_from(&phc).map_err(|_| HashError::Malformed)?;
    check_ceiling(&params)?;
    let (Some(salt), Some(expected)) = (phc.salt, phc.hash) else {
        return Err(HashError::Malformed);
    };
    // `Output` compares in constant time.
    let matches = fill(password, &salt, &params, expected.len(), memory)? == expected;
    let outdated = matches && params != current.params()?;
    Ok(Verdict { matches, outdated })
}

fn fill(
    password: &Password,
    salt: &[u8],
    params: &Params,
    output_len: usize,
    memory: &mut Memory,
) -> Result<Output, HashError> {
    let mut output = [0; Output::MAX_LENGTH];
    let output = output.get_mut(..output_len).ok_or(HashError::Malformed)?;
    hubbub_argon2::hash(password.0.as_bytes(), salt, params, memory.blocks(params), output)
        .map_err(|_| HashError::Malformed)?;
    Output::new(output).map_err(|_| HashError::Malformed)
}

fn check_ceiling(params: &Params) -> Result<(), HashError> {
    if params.m_cost() > limits::HASH_MEMORY_KIB_MAX
        || params.t_cost() > limits::HASH_PASSES_MAX
        || params.p_cost() > limits::HASH_LANES_MAX
    {
        return Err(HashError::CostTooHigh);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };

    fn password(text: &str) -> Password {
        Password::new(text.to_owned()).unwrap()
    }

    #[test]
    fn a_password_verifies_against_its_own_hash_only() {
        let mut memory = Memory::default();
        let stored = hash(&password("correct horse"), &[7; 16], SMALL, &mut memory).unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
        let mut matches =
            |text: &str| verify(&password(text), &stored, SMALL, &mut memory).unwrap().matches;
        assert!(matches("correct horse"));
        assert!(!matches("correct horsf"));
        assert!(!matches(" correct horse"));
        assert!(!matches("Correct horse"));
    }

    #[test]
    fn used_memory_does_not_change_a_hash() {
        let mut used = Memory::default();
        hash(&password("something else"), &[1; 16], SMALL, &mut used).unwrap();
        let again = hash(&password("correct horse"), &[7; 16], SMALL, &mut used).unwrap();
        let fresh =
            hash(&password("correct horse"), &[7; 16], SMALL, &mut Memory::default()).unwrap();
        assert_eq!(again, fresh);
    }

    #[test]
    fn a_hash_of_the_reference_implementation_verifies() {
        // argon2 -id -t 2 -m 16 -p 1, of the phc-winner-argon2 test suite.
        let stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                      CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let verdict = verify(&password("password"), stored, SMALL, &mut Memory::default()).unwrap();
        assert_eq!(verdict, Verdict { matches: true, outdated: true });
    }

    #[test]
    fn a_hash_of_another_cost_is_outdated_if_the_password_matches() {
        let mut memory = Memory::default();
        for cost in [
            SMALL,
            Cost { memory: ByteSize::kib(128), ..SMALL },
            Cost { passes: 2, ..SMALL },
            Cost { lanes: 2, ..SMALL },
        ] {
            let stored = hash(&password("correct horse"), &[7; 16], cost, &mut memory).unwrap();
            let mut verify = |text| verify(&password(text), &stored, SMALL, &mut memory).unwrap();
            let outdated = cost != SMALL;
            assert_eq!(verify("correct horse"), Verdict { matches: true, outdated }, "{cost:?}");
            assert_eq!(verify("wrong horse!"), Verdict { matches: false, outdated: false });
        }
    }

    #[test]
    fn common_passwords_and_the_user_name_are_refused_when_they_are_chosen() {
        let chosen = |text: &str| Password::for_new(text.to_owned(), "wilhelmina").err();
        for common in ["password", "PASSWORD", "PassWord1", "12345678", "Wilhelmina"] {
            assert_eq!(chosen(common), Some(PasswordRuleError::Common), "{common}");
            assert!(Password::new(common.to_owned()).is_ok(), "a login takes {common}");
        }
        for taken in ["correct horse", "wilhelmina9", "passw\u{f6}rd"] {
            assert_eq!(chosen(taken), None, "{taken}");
        }
        assert_eq!(chosen("short"), Some(PasswordRuleError::TooShort));
        assert_eq!(chosen(&"x".repeat(1025)), Some(PasswordRuleError::TooLong));
    }

    #[test]
    fn a_stored_hash_above_the_ceiling_is_refused_without_allocating() {
        let mut memory = Memory::default();
        for params in ["m=4194304,t=2,p=1", "m=64,t=1000000,p=1", "m=4096,t=1,p=64"] {
            let stored = format!(
                "$argon2id$v=19${params}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
            );
            let refused = verify(&password("password"), &stored, SMALL, &mut memory);
            assert_eq!(refused, Err(HashError::CostTooHigh), "{params}");
        }
        assert_eq!(memory.0.len(), 0);
    }

    #[test]
    fn what_is_no_argon2id_hash_is_malformed() {
        let tail = "$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let wrong = [
            String::new(),
            "hunter22".to_owned(),
            format!("$argon2i$v=19{tail}"),
            format!("$argon2id$v=16{tail}"),
            format!("$argon2id{tail}"),
            "$argon2id$v=19$m=64,t=1,p=1".to_owned(),
        ];
        for stored in wrong {
            let refused = verify(&password("password"), &stored, SMALL, &mut Memory::default());
            assert_eq!(refused, Err(HashError::Malformed), "{stored}");
        }
    }

    #[test]
    fn passwords_have_8_to_1024_bytes_and_are_taken_verbatim() {
        for (length, taken) in [(0, false), (7, false), (8, true), (1024, true), (1025, false)] {
            assert_eq!(Password::new("x".repeat(length)).is_ok(), taken, "{length}");
        }
        assert!(Password::new("four\u{0}\u{fc}\u{fc}".to_owned()).is_ok(), "bytes, not characters");
        assert_eq!(format!("{:?}", password("secret secret")), "Password(…)");
    }

    #[test]
    fn memory_for_a_costlier_hash_is_given_back() {
        let mut memory = Memory::default();
        hash(&password("correct horse"), &[7; 16], SMALL, &mut memory).unwrap();
        let more = Cost { memory: ByteSize::kib(80), ..SMALL };
        hash(&password("correct horse"), &[7; 16], more, &mut memory).unwrap();
        assert_eq!(memory.bytes(), 80 * 1024);
        let costly = Cost { memory: ByteSize::kib(256), ..SMALL };
        hash(&password("correct horse"), &[7; 16], costly, &mut memory).unwrap();
        memory.shrink_to(SMALL);
        assert_eq!(memory.0.len(), 64);
        assert_eq!(memory.bytes(), 64 * 1024);
    }
}
