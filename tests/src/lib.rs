//! Harness, generators and judges shared by the suites.

pub mod harness;
pub mod random;
pub mod tools;
pub mod bpftool;
pub mod broken;
pub mod fuzz;
pub mod layout;
pub mod handmade;
pub mod net;
pub mod probe;
pub mod daemon;
pub mod demo;

pub mod flows;
pub mod generate;
pub mod organisation;
pub mod scale;
pub mod package;
pub mod packet;
pub mod model;
pub mod world;
pub mod testrun;
pub mod measure;
pub mod live;
pub mod editor;

pub mod workload;
pub mod bpf;
pub mod assembler;
pub mod contest;
