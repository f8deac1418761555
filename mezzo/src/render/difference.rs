//! A difference between two trees as one line.

use mezzo_core::name::escape;
use mezzo_core::tree::{Difference, Field, Side, Sort};
use mezzo_core::{State, Xattr};

use super::{View, clock, detail};

/// Sort, paths, details.
pub fn difference(view: &View, difference: &Difference<'_>) -> [String; 3] {
    [difference.sort.word().to_owned(), paths(difference), details(view, difference)]
}

/// The names of extended attributes that are not the same in both, each with its values.
pub fn xattrs<'s>(
    before: &'s State,
    after: &'s State,
) -> impl Iterator<Item = (&'s [u8], Option<&'s [u8]>, Option<&'s [u8]>)> {
    let value = |of: &'s State, name: &[u8]| of.xattrs.iter().find(|xattr| &*xattr.name == name).map(value);
    let names = before.xattrs.iter().chain(&after.xattrs).map(|xattr| &*xattr.name);
    let names: std::collections::BTreeSet<&[u8]> = names.collect();
    let each = names.into_iter().map(move |name| (name, value(before, name), value(after, name)));
    each.filter(|(_, before, after)| before != after)
}

fn value(xattr: &Xattr) -> &[u8] {
    &xattr.value
}

fn paths(difference: &Difference<'_>) -> String {
    let path = |side: &Side<'_>| match escape(&side.path) {
        path if path.is_empty() => ".".to_owned(),
        path => path,
    };
    match (&difference.before, &difference.after) {
        (Some(before), Some(after)) if before.path != after.path => {
            format!("{} -> {}", path(before), path(after))
        }
        (_, Some(side)) | (Some(side), None) => path(side),
        (None, None) => String::new(),
    }
}

fn details(view: &View, difference: &Difference<'_>) -> String {
    match (difference.sort, &difference.before, &difference.after) {
        (Sort::Added, _, Some(side)) | (Sort::Removed, Some(side), _) => detail::made(side.state),
        (_, Some(before), Some(after)) => {
            let fields =
                difference.fields.iter().map(|field| changed(view, *field, before.state, after.state));
            fields.collect::<Vec<_>>().join(", ")
        }
        _ => String::new(),
    }
}

/// What became of one field.
fn changed(view: &View, field: Field, before: &State, after: &State) -> String {
    let (old, new) = (&before.attributes, &after.attributes);
    let (from, to) = match field {
        Field::Data => return field.word().to_owned(),
        Field::Atime => return format!("{} {}", field.word(), clock::short(new.atime, &view.zone)),
        Field::Mtime => return format!("{} {}", field.word(), clock::short(new.mtime, &view.zone)),
        Field::Xattrs => {
            let names: Vec<String> = xattrs(before, after).map(|(name, _, _)| escape(name)).collect();
            return format!("{} {}", field.word(), names.join(" "));
        }
        Field::Kind => (old.kind.word().to_owned(), new.kind.word().to_owned()),
        Field::Size => (old.size.to_string(), new.size.to_string()),
        Field::Target => (detail::shorten(&escape(&before.target)), detail::shorten(&escape(&after.target))),
        Field::Device => (detail::device(old.device), detail::device(new.device)),
        Field::Mode => (detail::mode(old.mode), detail::mode(new.mode)),
        Field::Owner => (view.users.user(old.uid), view.users.user(new.uid)),
        Field::Group => (view.users.group(old.gid), view.users.group(new.gid)),
    };
    format!("{} {from} -> {to}", field.word())
}
