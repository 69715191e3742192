//! The program from outside.

mod pages;
