//! The only conversions between the contract's messages and the model. What comes in is checked here, field by field, and
//! inside there are only valid values.

pub mod backup;
pub mod event;
pub mod fields;
pub mod lock;
pub mod operation;
pub mod settings;
