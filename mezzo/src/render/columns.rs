//! Cells below each other.

/// Characters that a column grows to: what is longer stands out of it.
const WIDEST: usize = 50;

/// A line for each row, its cells padded to the width of their column, with two spaces between them. A column whose cells are all
/// empty is left out.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let characters = |cell: &String| cell.chars().count();
    let width =
        |column: usize| rows.iter().map(|row| characters(&row[column]).min(WIDEST)).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).filter(|(_, width)| *width > 0);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let long = "x".repeat(WIDEST + 1);
        let check = |rows: &[[&str; 3]], expected: &[&str]| {
            let rows: Vec<_> = rows.iter().copied().map(row).collect();
            assert_eq!(columns(&rows), expected);
        };
        check(&[], &[]);
        check(&[["a", "", "c"], ["aa", "", ""]], &["a   c", "aa   "]);
        check(&[["ü", "b", "c"], ["aa", "", "d"]], &["ü   b  c", "aa     d"]);
        check(&[[&long, "b", "c"]], &[&format!("{long}  b  c")]);
    }
}
