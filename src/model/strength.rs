//! How hard a passphrase is to guess for somebody who has a file and all the time there is.
//!
//! An estimate of what guessers try first: well-known words with the usual replacements, rows of keys, sequences, repeats and
//! years cost them little, and words less than letters by chance. It errs both ways; it is there to refuse what is in every list.

use zeroize::Zeroizing;

/// Bits times this, so that sums are exact.
const BIT: u32 = 10;
const RUN: u32 = 7 * BIT;
const YEAR: u32 = 7 * BIT;
const WORD: u32 = 8 * BIT;
const AGAIN: u32 = 2 * BIT;
/// Capitals or replaced letters somewhere in a word.
const VARIED: u32 = BIT;
const LONGEST_AGAIN: usize = 32;

/// What people type in their order, forwards or backwards, beside the alphabet and the digits.
const ROWS: [&str; 7] = ["qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "!@#$%^&*()"];

/// What begins every list of guesses, in small letters.
const WORDS: &str = "password passwort passwd passphrase passw kennwort geheim secret secrets geheimnis letmein welcome willkommen \
    login logon access admin administrator root user users guest gast default changeme change master system server service \
    manager support test tester testing example sample demo temp temporary backup backups restore holdfast postgres postgresql \
    database oracle mysql linux windows microsoft apple google amazon samsung iphone computer internet network security \
    cisco dell hello hallo hola bonjour love iloveyou ilove loveyou lovely sweet sweetheart honey baby angel princess prince queen king \
    sunshine sunflower flower summer sommer winter spring herbst autumn monday friday sunday january february march april august \
    september october november december dragon monkey tiger lion eagle falcon wolf panda kitten puppy horse buttercup \
    football fussball soccer baseball basketball hockey golfer player winner killer hunter ranger soldier warrior wizard \
    superman batman spiderman starwars startrek pokemon naruto matrix mustang ferrari porsche mercedes harley yamaha corvette \
    michael michelle jennifer jessica jordan joshua daniel andrew anthony thomas robert charlie william george matthew nicole \
    ashley amanda samantha stephanie hannah maggie ginger pepper cookie chocolate banana orange cheese coffee purple silver golden \
    yellow diamond crystal shadow phoenix thunder lightning freedom liberty america england london berlin paris germany deutschland \
    schatz freund family forever whatever nothing trustno trustnoone fuckyou fuck asshole bitch jesus christ heaven hell satan \
    blessed qazwsx wsxedc edcrfv qweasd asdzxc zaqwsx qweasdzxc qazwsxedc zaq1xsw2 zaq12wsx 1q2w3e4r 1q2w3e 1qaz2wsx q1w2e3r4 a1b2c3d4 \
    abc123 abcd1234 aa123456 qwe123 asd123 pass word number one two three";

/// The effort of a guesser, as a power of two.
pub fn bits(text: &str) -> u32 {
    let given: Zeroizing<Vec<char>> = Zeroizing::new(text.chars().collect());
    let small: Zeroizing<Vec<char>> = Zeroizing::new(given.iter().map(char::to_ascii_lowercase).collect());
    // The least effort for what stands before each place.
    let mut efforts = vec![u32::MAX; given.len() + 1];
    efforts[0] = 0;
    for place in 0..given.len() {
        let before = efforts[place];
        let mut piece = |length: usize, effort: u32| {
            let end = &mut efforts[place + length];
            *end = (*end).min(before.saturating_add(effort));
        };
        piece(1, one(given[place]));
        if let Some(length) = run(&small[place..]) {
            (3..=length).for_each(|length| piece(length, RUN));
        }
        if year(&small[place..]) {
            piece(4, YEAR);
        }
        let varied = |length: usize| if given[place..place + length] == small[place..place + length] { 0 } else { VARIED };
        for word in WORDS.split_whitespace() {
            if let Some(replaced) = begins(&small[place..], word) {
                piece(word.len(), WORD + varied(word.len()) + replaced);
            }
        }
        if place == 0 || !small[place - 1].is_ascii_lowercase() {
            let letters = small[place..].iter().take_while(|c| c.is_ascii_lowercase()).count();
            if letters >= 4 && pronounceable(&small[place..place + letters]) {
                piece(letters, effort_of_word(letters) + varied(letters));
            }
        }
        for length in 2..=LONGEST_AGAIN.min(place).min(small.len() - place) {
            if small[place - length..place] == small[place..place + length] {
                piece(length, AGAIN);
            }
        }
    }
    efforts[given.len()] / BIT
}

/// A character by chance.
fn one(c: char) -> u32 {
    match c {
        '0'..='9' => 33,
        'a'..='z' => 47,
        'A'..='Z' => 57,
        c if c.is_ascii() => 55,
        _ => 80,
    }
}

/// A word that is in some dictionary.
fn effort_of_word(letters: usize) -> u32 {
    (10 + 2 * u32::try_from(letters).unwrap_or(u32::MAX / 100).min(1000)) * BIT
}

/// Length of what begins here and is one character again and again, a sequence, or a row of keys; 3 at least.
fn run(text: &[char]) -> Option<usize> {
    let step = |one: char, other: char| i64::from(u32::from(other)) - i64::from(u32::from(one));
    let (&first, &second) = (text.first()?, text.get(1)?);
    let even = |by: i64| 1 + text.windows(2).take_while(|pair| step(pair[0], pair[1]) == by).count();
    let steps = Some(step(first, second)).filter(|by| (-1..=1).contains(by)).map_or(0, even);
    let keys = |row: &str, backwards: bool| {
        let mut row: Vec<char> = row.chars().collect();
        if backwards {
            row.reverse();
        }
        let from = row.iter().position(|&key| key == first).unwrap_or(row.len());
        row[from..].iter().zip(text).take_while(|(key, c)| key == c).count()
    };
    // 9 is followed by 0 on the keyboard.
    let rows = ROWS.iter().chain(&["1234567890"]).flat_map(|row| [keys(row, false), keys(row, true)]).max().unwrap_or(0);
    Some(steps.max(rows)).filter(|&length| length >= 3)
}

fn year(text: &[char]) -> bool {
    matches!(text, ['1', '9', a, b, ..] | ['2', '0', a, b, ..] if a.is_ascii_digit() && b.is_ascii_digit())
}

/// Whether the text begins with the word, and what it costs that letters are replaced by what looks like them.
fn begins(text: &[char], word: &str) -> Option<u32> {
    let same = |c: char, letter: char| match (c, letter) {
        (c, letter) if c == letter => Some(0),
        ('4' | '@', 'a') | ('8', 'b') | ('3', 'e') | ('6' | '9', 'g') | ('1' | '!', 'i' | 'l') | ('0', 'o') => Some(VARIED),
        ('5' | '$', 's') | ('7' | '+', 't') | ('2', 'z') => Some(VARIED),
        _ => None,
    };
    let letters = text.iter().zip(word.chars()).map(|(&c, letter)| same(c, letter));
    (text.len() >= word.len()).then(|| letters.collect::<Option<Vec<_>>>()).flatten()?.into_iter().max()
}

/// Whether letters could be a word: vowels among them, and never five others in a row.
fn pronounceable(letters: &[char]) -> bool {
    let vowel = |c: &char| "aeiouy".contains(*c);
    let vowels = letters.iter().filter(|c| vowel(c)).count();
    let longest = letters.split(vowel).map(<[char]>::len).max().unwrap_or(0);
    let odd = letters.iter().filter(|c| "jqxz".contains(**c)).count();
    vowels * 5 >= letters.len() && longest < 5 && odd * 6 <= letters.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Passphrase;

    #[test]
    fn c17_what_is_in_every_list_costs_little() {
        for text in [
            "password1234",
            "Password123!",
            "P@ssw0rd1234",
            "passwordpassword",
            "123456789012",
            "098765432109",
            "abcdefghijkl",
            "qwertyuiop12",
            "qwertzuiop123",
            "asdfghjkl123",
            "1q2w3e4r5t6y",
            "1qaz2wsx3edc",
            "qazwsxedcrfv",
            "zaq12wsxzaq12wsx",
            "iloveyou1234",
            "letmein12345",
            "Welcome12345",
            "Summer2024!!",
            "Sommer2025!!",
            "administrator",
            "Administrator1",
            "changeme1234",
            "trustno1trustno1",
            "abcd1234abcd",
            "123123123123",
            "abcabcabcabc",
            "111222333444",
            "housekeeping",
            "unbelievable",
            "holdfast2026",
            "holdfast-backup",
            "Backup2026!!",
            "monkeydragon",
            "superman1234",
            "michael19851985",
            "correcthorse",
            "19901991199219931994",
            "!@#$%^&*()12",
            "PASSWORD-1234",
        ] {
            assert!(bits(text) < Passphrase::MIN_BITS, "{text}: {}", bits(text));
        }
    }

    #[test]
    fn c17_what_is_by_chance_costs_much() {
        for text in [
            "correct horse battery",
            "correct horse battery staple",
            "grüße aus köln",
            "  blanks around it  ",
            "V7k#pQ2w!xLd",
            "qhzjkwpxvbnm",
            "a passphrase for golden files",
            "ключ и замок 7",
            "🔒🔑密鑰 ключ 12",
            "7f3a9c0d1e8b",
            "Tr0ub4dor & 3 two spaces",
            "kupfer-anker-tasse",
        ] {
            assert!(bits(text) >= Passphrase::MIN_BITS, "{text}: {}", bits(text));
        }
        assert!(bits(&"0123456789abcdef".repeat(64)) >= Passphrase::MIN_BITS);
        assert_eq!(bits(""), 0);
    }
}
