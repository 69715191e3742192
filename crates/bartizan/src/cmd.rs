//! One file a command.

pub(crate) mod call;
pub(crate) mod can;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod down;
pub(crate) mod echo;
pub(crate) mod explain;
pub(crate) mod logs;
pub(crate) mod profile;
pub(crate) mod prove;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod token;
