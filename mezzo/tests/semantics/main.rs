//! What users of a mount can rely on, each sentence of `docs/semantics.md` tried on real mounts.

#[path = "../common/mod.rs"]
mod common;

mod acls;
mod another_inode;
mod attic;
mod behind;
mod body;
mod crowd;
mod daemon;
mod data;
mod demand;
mod directories;
mod document;
mod full;
mod history;
mod ids;
mod links;
mod locks;
mod mapping;
mod names;
mod own;
mod ownership;
mod past;
mod permit;
mod programs;
mod ranges;
mod recording;
mod reintegrate;
mod renames;
mod set_id;
mod special;
mod submounts;
mod times;
mod undo;
mod unprivileged;
mod xattrs;
