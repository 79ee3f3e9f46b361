//! Field lines as HPACK literals (RFC 7541), of whatever bytes a test wants.

/// A field line, each character below U+0100 for its byte.
pub(crate) type Field<'a> = (&'a str, &'a str);

/// A block of field lines, each a literal without indexing (RFC 7541 section 6.2.2).
pub(crate) fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let lines =
        fields.iter().map(|(name, value)| [vec![0], literal(name), literal(value)].concat());
    lines.collect::<Vec<_>>().concat()
}

/// A string without Huffman's code (RFC 7541 section 5.2).
pub(crate) fn literal(text: &str) -> Vec<u8> {
    let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).expect("a Latin-1 character"));
    let bytes: Vec<u8> = bytes.collect();
    let mut coded = integer(bytes.len(), 7);
    coded.extend(bytes);
    coded
}

/// An integer with a prefix of so many bits, the others zero (RFC 7541 section 5.1).
pub(crate) fn integer(value: usize, bits: u8) -> Vec<u8> {
    let prefix = (1_usize << bits) - 1;
    if value < prefix {
        return vec![value as u8];
    }
    let (mut coded, mut left) = (vec![prefix as u8], value - prefix);
    while left >= 128 {
        coded.push((left % 128 + 128) as u8);
        left /= 128;
    }
    coded.push(left as u8);
    coded
}
