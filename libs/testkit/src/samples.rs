//! People and documents that several tests use.

use bus::{Caller, Role};
use margo::TenantName;

/// The description of a small application, `hello` in version 1.0.0: it has one profile, `wasm`, with one component,
/// `hello`, and one parameter, `greeting`, at the end of the text.
pub const HELLO: &str = include_str!("hello.yaml");

/// The person who gives the orders of tests, an administrator of the default tenant.
pub fn ada() -> Caller {
    Caller {
        tenant: TenantName::default(),
        name: "ada".parse().expect("this is a valid name"),
        roles: vec![Role::Admin],
    }
}
