//! Statements to text, in lines of at most [`COLUMNS`] where they can be broken.

use super::COLUMNS;
use super::rows::{Row, row, table, together};
use super::statement::{
    Above, Body, Clause, Entry, INDENT, Line, List, Member, PieceKind, Segment, Statement,
};

/// The text of a file, and whether lines of it were kept.
pub(super) fn print(text: &str, entries: &[Entry<'_>]) -> (String, bool) {
    let mut printer =
        Printer { text, out: String::with_capacity(text.len()), column: 0, indent: 0, kept: false };
    printer.entries(entries, 0);
    if !printer.out.is_empty() {
        printer.out.push('\n');
    }
    (printer.out, printer.kept)
}

struct Printer<'a> {
    text: &'a str,
    out: String,
    /// Columns of the last line so far.
    column: usize,
    /// Blanks the last line starts with.
    indent: usize,
    /// Whether lines were kept.
    kept: bool,
}

/// A clause or a segment: what may stand on a line of its own.
trait Part {
    fn above(&self) -> &[&str];
    fn flat(&self) -> Option<&str>;
    fn trailing(&self) -> Option<&str>;
    /// Columns up to its first opening bracket, if it has one.
    fn opens(&self) -> Option<usize>;
    /// In several lines, with the comment after it.
    fn print(&self, printer: &mut Printer<'_>, suffix: usize);
}

impl Printer<'_> {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn line_start(&mut self, indent: usize) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.extend(std::iter::repeat_n(' ', indent));
        (self.column, self.indent) = (indent, indent);
    }

    fn blank(&mut self) {
        self.out.push('\n');
    }

    fn trailing(&mut self, comment: Option<&str>) {
        if let Some(comment) = comment {
            self.push(" ");
            self.push(comment);
        }
    }

    /// Whether more columns fit on the last line.
    fn fits(&self, columns: usize) -> bool {
        self.column + columns <= COLUMNS
    }

    fn entries(&mut self, entries: &[Entry<'_>], indent: usize) {
        let mut rows = vec![].into_iter();
        for (n, entry) in entries.iter().enumerate() {
            if n > 0 && entry.newlines() > 1 {
                self.blank();
            }
            match entry {
                Entry::Statement(statement) => {
                    let row = rows.next().or_else(|| {
                        rows = run(entries.get(n..).unwrap_or_default(), indent).into_iter();
                        rows.next()
                    });
                    self.statement(statement, row.as_deref(), indent);
                }
                Entry::Comment { text, newlines: 0 } if !self.out.is_empty() => {
                    self.trailing(Some(text));
                }
                Entry::Comment { text, .. } => {
                    self.line_start(indent);
                    self.push(text);
                }
                Entry::Kept { bytes, .. } => {
                    self.kept = true;
                    self.line_start(0);
                    let text = self.text.get(bytes.clone()).unwrap_or_default();
                    self.out.push_str(text);
                }
            }
        }
    }

    fn statement(&mut self, statement: &Statement<'_>, row: Option<&str>, indent: usize) {
        for lead in &statement.lead {
            if lead.blank {
                self.blank();
            }
            self.line_start(indent);
            match &lead.content {
                Above::Text(text) => self.push(text),
                Above::Annotations(list) => self.annotations(list, indent),
            }
            self.trailing(lead.trailing);
        }
        if statement.apart {
            self.blank();
        }
        self.line_start(indent);
        match row {
            Some(row) => self.push(row),
            None => self.line(&statement.line, ""),
        }
    }

    /// Annotations written on one line: on one line if they fit, else each on its own.
    fn annotations(&mut self, list: &[Line<'_>], indent: usize) {
        let flats = list.iter().map(|line| line.flat.as_deref()).collect::<Option<Vec<_>>>();
        match flats.map(|flats| flats.join(" ")).filter(|text| self.fits(text.chars().count())) {
            Some(text) => self.push(&text),
            None => {
                for (n, line) in list.iter().enumerate() {
                    if n > 0 {
                        self.line_start(indent);
                    }
                    self.line(line, "");
                }
            }
        }
    }

    /// A line and what follows it without a blank.
    fn line(&mut self, line: &Line<'_>, suffix: &str) {
        let columns = suffix.chars().count();
        match line.flat.as_deref().filter(|flat| self.fits(flat.chars().count() + columns)) {
            Some(flat) => self.push(flat),
            None => self.parts(&line.clauses, columns),
        }
        self.push(suffix);
    }

    /// As many parts on a line as fit.
    fn parts<P: Part>(&mut self, parts: &[P], suffix: usize) {
        let inner = self.indent + INDENT;
        let mut ended = false;
        for (n, part) in parts.iter().enumerate() {
            let suffix = if n + 1 == parts.len() { suffix } else { 0 };
            let columns = part.flat().map(|flat| flat.chars().count() + suffix);
            if ended || n > 0 && !part.above().is_empty() {
                for comment in part.above() {
                    self.line_start(inner);
                    self.push(comment);
                }
                self.line_start(inner);
            } else if n > 0 {
                let alone = columns.is_some_and(|columns| inner + columns <= COLUMNS);
                let here = columns.filter(|_| alone).or(part.opens());
                if here.is_some_and(|columns| self.fits(1 + columns)) {
                    self.push(" ");
                } else {
                    self.line_start(inner);
                }
            }
            match part.flat().filter(|_| columns.is_some_and(|columns| self.fits(columns))) {
                Some(flat) => {
                    self.push(flat);
                    self.trailing(part.trailing());
                }
                None => part.print(self, suffix),
            }
            ended = part.trailing().is_some();
        }
    }

    fn list(&mut self, list: &List<'_>) {
        let base = self.indent;
        self.push(list.open);
        // Brackets around one thing stay with it.
        if let ([only], false) = (list.members.as_slice(), list.comma)
            && list.opening.is_none()
            && list.below.is_empty()
            && only.above.is_empty()
            && only.trailing.is_none()
        {
            self.line(&only.line, list.close);
            self.indent = base;
            return;
        }
        self.trailing(list.opening);
        let named = list.members.iter().filter_map(|member| member.named).max().unwrap_or(0);
        for member in &list.members {
            self.member(member, named, base + INDENT, if list.comma { "," } else { "" });
        }
        for comment in &list.below {
            self.line_start(base + INDENT);
            self.push(comment);
        }
        self.line_start(base);
        self.push(list.close);
    }

    /// A member of a list on a line of its own; names before `=` are filled up to `named` columns.
    fn member(&mut self, member: &Member<'_>, named: usize, indent: usize, suffix: &str) {
        for comment in &member.above {
            self.line_start(indent);
            self.push(comment);
        }
        self.line_start(indent);
        let blanks = member.named.map_or(0, |columns| named - columns);
        let flat = member.line.flat.as_deref();
        let flat = flat.filter(|flat| self.fits(blanks + flat.chars().count() + suffix.len()));
        match flat.and_then(|flat| flat.split_once(" = ")).filter(|_| member.named.is_some()) {
            Some((name, value)) => {
                self.push(name);
                self.push(&" ".repeat(blanks));
                self.push(" = ");
                self.push(value);
                self.push(suffix);
            }
            None => self.line(&member.line, suffix),
        }
        self.trailing(member.trailing);
    }

    fn body(&mut self, body: &Body<'_>) {
        let base = self.indent;
        self.push("{");
        self.entries(&body.entries, base + INDENT);
        self.line_start(base);
        self.push("}");
    }
}

impl Part for Clause<'_> {
    fn above(&self) -> &[&str] {
        self.above()
    }

    fn flat(&self) -> Option<&str> {
        self.flat()
    }

    fn trailing(&self) -> Option<&str> {
        self.trailing()
    }

    fn opens(&self) -> Option<usize> {
        self.segments.first().and_then(Segment::opens)
    }

    fn print(&self, printer: &mut Printer<'_>, suffix: usize) {
        printer.parts(&self.segments, suffix);
    }
}

impl Part for Segment<'_> {
    fn above(&self) -> &[&str] {
        &self.above
    }

    fn flat(&self) -> Option<&str> {
        self.flat.as_deref()
    }

    fn trailing(&self) -> Option<&str> {
        self.trailing
    }

    fn opens(&self) -> Option<usize> {
        let mut columns = 0;
        for piece in &self.pieces {
            columns += usize::from(piece.space);
            match piece.kind {
                PieceKind::Word(word) => columns += word.chars().count(),
                PieceKind::List(_) | PieceKind::Body(_) => return Some(columns + 1),
            }
        }
        None
    }

    fn print(&self, printer: &mut Printer<'_>, suffix: usize) {
        for (n, piece) in self.pieces.iter().enumerate() {
            let suffix = if n + 1 == self.pieces.len() { suffix } else { 0 };
            printer.push(if piece.space { " " } else { "" });
            let flat = match &piece.kind {
                PieceKind::Word(word) => {
                    printer.push(word);
                    continue;
                }
                PieceKind::List(list) => list.flat.as_deref(),
                PieceKind::Body(body) => body.flat.as_deref(),
            };
            match (flat.filter(|flat| printer.fits(flat.chars().count() + suffix)), &piece.kind) {
                (Some(flat), _) => printer.push(flat),
                (None, PieceKind::List(list)) => printer.list(list),
                (None, PieceKind::Body(body)) => printer.body(body),
                (None, PieceKind::Word(_)) => {}
            }
        }
        printer.trailing(self.trailing);
    }
}

/// The texts of the rows of a table that starts with the first entry; none if that is no row.
fn run(entries: &[Entry<'_>], indent: usize) -> Vec<String> {
    let mut rows: Vec<Row<'_>> = vec![];
    for entry in entries {
        let statement = match entry {
            Entry::Statement(statement) => statement,
            // A comment at the end of a row is no line between rows.
            Entry::Comment { newlines: 0, .. } => continue,
            Entry::Comment { .. } | Entry::Kept { .. } => break,
        };
        let adjacent = statement.newlines < 2 && statement.lead.is_empty();
        let Some(row) = row(statement, indent) else { break };
        match rows.last() {
            Some(last) if !adjacent || !together(last, &row) => break,
            Some(_) | None => rows.push(row),
        }
    }
    table(&rows, indent)
}
