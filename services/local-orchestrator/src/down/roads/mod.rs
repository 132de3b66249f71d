//! The roads that a site can take, each a [`super::road::Road`].

pub mod bus;
