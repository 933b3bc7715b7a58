//! Messages of the bus as bytes, little-endian.

use super::failure::Failure;

/// Bytes of a header before its fields, the length of which is the last of it.
pub(super) const HEADER: usize = 16;
const LITTLE_ENDIAN: u8 = b'l';
const VERSION: u8 = 1;
const CALL: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;

/// Fields of a header by their codes.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A call of a method.
#[derive(Debug, Clone)]
pub struct Call<'c> {
    /// The name of who is called on the bus.
    pub destination: &'c str,
    /// The object.
    pub path: &'c str,
    /// The interface of the method.
    pub interface: &'c str,
    /// The method.
    pub member: &'c str,
    /// Its arguments.
    pub body: Body,
}

/// Values of a message.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// The types of the values.
    signature: String,
    bytes: Vec<u8>,
}

impl Body {
    /// Returns a message without values so far, whose types will be these.
    pub fn of(signature: &str) -> Self {
        Body {
            signature: signature.to_owned(),
            bytes: Vec::new(),
        }
    }

    /// Returns a message of texts.
    pub fn of_texts(texts: &[&str]) -> Self {
        let body = Body::of(&"s".repeat(texts.len()));
        texts.iter().fold(body, |body, text| body.text(text))
    }

    fn align(&mut self, size: usize) {
        let len = self.bytes.len().next_multiple_of(size);
        self.bytes.resize(len, 0);
    }

    /// Adds a number of 32 bits.
    pub fn number(mut self, number: u32) -> Self {
        self.align(4);
        self.bytes.extend(number.to_le_bytes());
        self
    }

    /// Adds a number of 64 bits.
    pub fn long(mut self, number: u64) -> Self {
        self.align(8);
        self.bytes.extend(number.to_le_bytes());
        self
    }

    /// Adds a truth value.
    pub fn truth(self, truth: bool) -> Self {
        self.number(u32::from(truth))
    }

    /// Adds a text, or the path of an object.
    pub fn text(self, text: &str) -> Self {
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut body = self.number(len);
        body.bytes.extend(text.as_bytes());
        body.bytes.push(0);
        body
    }

    fn types(mut self, signature: &str) -> Self {
        self.bytes
            .push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
        self
    }

    /// Adds a value of its own type.
    pub fn variant(self, signature: &str, value: impl FnOnce(Self) -> Self) -> Self {
        value(self.types(signature))
    }

    /// Adds a structure.
    pub fn structure(mut self, members: impl FnOnce(Self) -> Self) -> Self {
        self.align(8);
        members(self)
    }

    /// Adds an array whose elements begin at multiples of `alignment`.
    pub fn array(self, alignment: usize, elements: impl FnOnce(Self) -> Self) -> Self {
        let mut body = self.number(0);
        let length_at = body.bytes.len() - 4;
        body.align(alignment);
        let begin = body.bytes.len();
        let mut body = elements(body);
        let len = u32::try_from(body.bytes.len() - begin).unwrap_or(u32::MAX);
        body.bytes[length_at..length_at + 4].copy_from_slice(&len.to_le_bytes());
        body
    }

    /// Adds an array of texts.
    pub fn texts(self, texts: &[&str]) -> Self {
        self.array(4, |body| {
            texts.iter().fold(body, |body, text| body.text(text))
        })
    }

    /// Adds an array of bytes.
    pub fn octets(self, octets: &[u8]) -> Self {
        self.array(1, |mut body| {
            body.bytes.extend(octets);
            body
        })
    }

    /// Adds a structure of a name and a value of its own type: a property.
    pub fn property(self, name: &str, signature: &str, value: impl FnOnce(Self) -> Self) -> Self {
        self.structure(|body| body.text(name).variant(signature, value))
    }
}

/// Returns a call as a message with this number.
pub(super) fn message(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let Call { body, .. } = call;
    let start = Body {
        bytes: vec![LITTLE_ENDIAN, CALL, 0, VERSION],
        ..Body::default()
    };
    let field = |fields: Body, code: u8, kind: &str, text: &str| {
        fields.structure(|mut field| {
            field.bytes.push(code);
            field.variant(kind, |value| match kind {
                "g" => value.types(text),
                _ => value.text(text),
            })
        })
    };
    let len = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
    let mut whole = start.number(len).number(serial).array(8, |fields| {
        let fields = field(fields, PATH, "o", call.path);
        let fields = field(fields, INTERFACE, "s", call.interface);
        let fields = field(fields, MEMBER, "s", call.member);
        let fields = field(fields, DESTINATION, "s", call.destination);
        match body.signature.is_empty() {
            true => fields,
            false => field(fields, SIGNATURE, "g", &body.signature),
        }
    });
    whole.align(8);
    whole.bytes.extend(&body.bytes);
    whole.bytes
}

/// Returns the size of the message that begins here, with its header; `None` when it is none.
pub(super) fn size_of(bytes: &[u8]) -> Option<usize> {
    let mut header = Reader::new(bytes);
    let is_ours = header.octet()? == LITTLE_ENDIAN;
    header.at = 4;
    let body = usize::try_from(header.number()?).ok()?;
    header.at = HEADER - 4;
    let fields = usize::try_from(header.number()?).ok()?;
    let head = HEADER.checked_add(fields)?.checked_next_multiple_of(8)?;
    is_ours.then(|| head.checked_add(body))?
}

/// What the bus sent.
#[derive(Debug)]
pub struct Reply {
    /// Number of the message that it answers; a signal answers none.
    pub(super) answers: Option<u32>,
    /// Name of the error, if it is one.
    pub(super) error: Option<String>,
    bytes: Vec<u8>,
    body_at: usize,
}

impl Reply {
    /// Understands a whole message; `None` when it is none.
    pub(super) fn of(bytes: Vec<u8>) -> Option<Self> {
        let mut header = Reader::new(&bytes);
        header.at = 1;
        let kind = header.octet()?;
        header.at = HEADER - 4;
        let end = usize::try_from(header.number()?)
            .ok()?
            .checked_add(HEADER)?;
        let (mut answers, mut error) = (None, None);
        while header.at < end {
            header.align(8);
            let code = header.octet()?;
            match (code, header.types()?) {
                (REPLY_SERIAL, "u") => answers = Some(header.number()?),
                (ERROR_NAME, "s") => error = Some(header.text()?.to_owned()),
                (_, "s" | "o") => drop(header.text()?),
                (_, "u") => drop(header.number()?),
                (_, "g") => drop(header.types()?),
                _ => return None,
            }
        }
        Some(Reply {
            answers: answers.filter(|_| kind == REPLY || kind == ERROR),
            error: error.filter(|_| kind == ERROR),
            body_at: end.next_multiple_of(8),
            bytes,
        })
    }

    /// Returns the reply, or the error that it is.
    pub(super) fn accepted(self) -> Result<Self, Failure> {
        match &self.error {
            None => Ok(self),
            Some(name) => Err(Failure::Refused {
                name: name.clone(),
                text: self.body().text().unwrap_or(name).to_owned(),
            }),
        }
    }

    /// Returns the values.
    pub fn body(&self) -> Reader<'_> {
        Reader::new(self.bytes.get(self.body_at..).unwrap_or_default())
    }

    /// Returns what `read` makes of the values.
    ///
    /// # Errors
    /// They are others.
    pub fn read<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Result<T, Failure> {
        read(&mut self.body()).ok_or_else(Failure::malformed)
    }
}

/// Values of a message, read one after the other; `None` where there is no such value.
#[derive(Debug)]
pub struct Reader<'m> {
    bytes: &'m [u8],
    at: usize,
}

impl<'m> Reader<'m> {
    fn new(bytes: &'m [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    fn align(&mut self, size: usize) {
        self.at = self.at.next_multiple_of(size);
    }

    fn take(&mut self, len: usize) -> Option<&'m [u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn octet(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// Reads a number of 32 bits, or a truth value.
    pub fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Reads a text, or the path of an object.
    pub fn text(&mut self) -> Option<&'m str> {
        let len = usize::try_from(self.number()?).ok()?;
        let text = self.take(len)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    fn types(&mut self) -> Option<&'m str> {
        let len = self.octet()?;
        let text = self.take(usize::from(len))?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    /// Begins a value of its own type, which has to be this one.
    pub fn variant(&mut self, signature: &str) -> Option<()> {
        (self.types()? == signature).then_some(())
    }

    /// Begins a structure.
    pub fn structure(&mut self) {
        self.align(8);
    }

    /// Reads an array whose elements begin at multiples of `alignment`.
    pub fn array<T>(
        &mut self,
        alignment: usize,
        mut element: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let len = usize::try_from(self.number()?).ok()?;
        self.align(alignment);
        let end = self.at.checked_add(len)?;
        let mut elements = Vec::new();
        while self.at < end {
            elements.push(element(self)?);
        }
        Some(elements)
    }

    /// Reads an array of bytes.
    pub fn octets(&mut self) -> Option<Vec<u8>> {
        self.array(1, Self::octet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call<'static> {
        Call {
            destination: "org.example",
            path: "/",
            interface: "org.example.One",
            member: "Two",
            body: Body::of("sas").text("three").texts(&["four", "", "five"]),
        }
    }

    #[test]
    fn a_message_is_as_long_as_it_says() {
        let whole = message(&call(), 7);
        assert_eq!(size_of(&whole), Some(whole.len()));
        let reply = Reply::of(whole).unwrap();
        assert_eq!((reply.answers, &reply.error), (None, &None));
        let mut body = reply.body();
        assert_eq!(body.text(), Some("three"));
        let rest = body.array(4, |text| text.text().map(str::to_owned));
        assert_eq!(rest.unwrap(), ["four", "", "five"]);
        assert_eq!(body.number(), None);
    }

    #[test]
    fn a_message_cut_short_is_none() {
        let whole = message(&call(), 7);
        for n in 0..HEADER {
            assert_eq!(size_of(&whole[..n]), None);
        }
        let begin_of_body = whole.len() - call().body.bytes.len();
        for n in 0..begin_of_body - 8 {
            assert!(Reply::of(whole[..n].to_vec()).is_none(), "{n}");
        }
        let huge = [
            b'l', 2, 0, 1, 255, 255, 255, 255, 1, 0, 0, 0, 255, 255, 255, 255,
        ];
        assert!(size_of(&huge).is_none_or(|size| size > 16 << 20));
    }
}
