//! Tests of `jwt`: what a token must be, and what of it proves nothing.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://login.example.org";

/// A signature of a text.
type Signs = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A key of the provider: as it is published, and what signs with it.
fn p256(id: &str) -> (Value, Signs) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let jwk = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": id,
        "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])});
    (jwk, Box::new(move |text| pair.sign(&random, text).unwrap().as_ref().to_vec()))
}

fn ed25519(id: &str) -> (Value, Signs) {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": BASE64.encode(pair.public_key().as_ref())});
    (jwk, Box::new(move |text| pair.sign(text).as_ref().to_vec()))
}

fn token(header: &Value, claims: &Value, signs: &Signs) -> String {
    let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let signature = BASE64.encode(signs(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Claims that are good, with `changes`.
fn claims(changes: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": "holdfast", "sub": "alice", "exp": now() + 300,
        "realm_access": {"roles": ["backup-admin", "offline_access"]}});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// A provider whose keys are in a file.
struct Provider {
    file: tempfile::NamedTempFile,
    jwt: Jwt,
}

impl Provider {
    fn new(keys: &[&Value]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = KeySource::File(file.path().to_owned());
        let jwt = Jwt::new(ISSUER.into(), "holdfast".into(), Some("realm_access.roles".into()), source);
        let provider = Self { file, jwt };
        provider.publish(keys);
        provider
    }

    fn publish(&self, keys: &[&Value]) {
        std::fs::write(self.file.path(), json!({"keys": keys}).to_string()).unwrap();
    }

    async fn refuses(&self, token: &str, words: &str) {
        match self.jwt.check(token).await {
            Err(Refused::Invalid(message)) => assert!(message.contains(words), "{message}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_good_token_proves_who_it_is_of_and_which_roles() {
    let ((ec, by_ec), (ed, by_ed)) = (p256("a"), ed25519("b"));
    let provider = Provider::new(&[&ec, &ed]);
    let proven = Ok(Proven { subject: "user:alice".into(), roles: vec![Role::BackupAdmin] });
    let good = claims(json!({}));
    assert_eq!(provider.jwt.check(&token(&json!({"alg": "ES256", "kid": "a"}), &good, &by_ec)).await, proven);
    assert_eq!(provider.jwt.check(&token(&json!({"alg": "EdDSA", "kid": "b"}), &good, &by_ed)).await, proven);
    assert_eq!(provider.jwt.check(&token(&json!({"alg": "EdDSA"}), &good, &by_ed)).await, proven);
    let many = claims(json!({"aud": ["other", "holdfast"], "nbf": now() - 5, "exp": now() as f64 + 10.5, "realm_access": {}}));
    let none = Ok(Proven { subject: "user:alice".into(), roles: Vec::new() });
    assert_eq!(provider.jwt.check(&token(&json!({"alg": "ES256", "kid": "a"}), &many, &by_ec)).await, none);
}

#[tokio::test]
async fn a_token_that_is_not_ours_not_now_or_nobodys_proves_nothing() {
    let (key, signs) = p256("a");
    let provider = Provider::new(&[&key]);
    for (changes, words) in [
        (json!({"iss": "https://elsewhere.example.org"}), "another issuer"),
        (json!({"aud": "other"}), "another audience"),
        (json!({"aud": ["other"]}), "another audience"),
        (json!({"aud": null}), "another audience"),
        (json!({"exp": now() - LEEWAY}), "expired"),
        (json!({"exp": null}), "expired"),
        // Of the wrong type is not absent.
        (json!({"exp": (now() + 300).to_string()}), "expired"),
        (json!({"nbf": now() + LEEWAY + 30}), "not valid yet"),
        (json!({"nbf": "0"}), "not valid yet"),
        (json!({"sub": ""}), "names nobody"),
        (json!({"sub": 7}), "names nobody"),
        (json!({"sub": "a\nb"}), "names nobody"),
    ] {
        provider.refuses(&token(&json!({"alg": "ES256", "kid": "a"}), &claims(changes), &signs), words).await;
    }
}

#[tokio::test]
async fn what_the_provider_has_not_signed_in_a_way_that_its_key_is_for_proves_nothing() {
    let ((key, signs), (_, other)) = (p256("a"), p256("a"));
    let provider = Provider::new(&[&key]);
    let good = claims(json!({}));
    let header = json!({"alg": "ES256", "kid": "a"});
    let words = "not signed by a key";
    provider.refuses(&token(&header, &good, &other), words).await;
    provider.refuses(&token(&header, &good, &(Box::new(|_: &[u8]| Vec::new()) as Signs)), words).await;
    for algorithm in ["none", "HS256", "RS256", "ES384", "EdDSA", "es256", ""] {
        provider.refuses(&token(&json!({"alg": algorithm, "kid": "a"}), &good, &signs), words).await;
    }
    // The public key as the secret of an HMAC, which whoever asks the key would believe.
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.to_string().as_bytes());
    let hmac: Signs = Box::new(move |text| ring::hmac::sign(&secret, text).as_ref().to_vec());
    provider.refuses(&token(&json!({"alg": "HS256", "kid": "a"}), &good, &hmac), words).await;
    provider.refuses(&token(&json!({"alg": "ES256", "kid": "a", "crit": ["b64"]}), &good, &signs), "not valid").await;
    // Other claims under a good signature.
    let whole = token(&header, &good, &signs);
    let (head, signature) = whole.rsplit_once('.').unwrap();
    let mallory = BASE64.encode(claims(json!({"sub": "mallory"})).to_string());
    provider.refuses(&format!("{}.{mallory}.{signature}", head.split_once('.').unwrap().0), words).await;
    for text in ["", ".", "..", "a.b.c", &whole[..whole.len() - 4], &format!("{whole}.x")] {
        assert!(matches!(provider.jwt.check(text).await, Err(Refused::Invalid(_))), "{text}");
    }
    assert!(provider.jwt.check(&whole).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_change_and_stay_in_use_while_nobody_tells_them() {
    let ((first, by_first), (second, by_second)) = (p256("first"), p256("second"));
    let provider = Provider::new(&[&first]);
    let of = |id: &str, signs: &Signs| token(&json!({"alg": "ES256", "kid": id}), &claims(json!({})), signs);
    let (old, new) = (of("first", &by_first), of("second", &by_second));
    assert!(provider.jwt.check(&old).await.is_ok());
    provider.publish(&[&first, &second]);
    // Whoever makes up names of keys does not make us ask all the time.
    assert!(provider.jwt.check(&new).await.is_err());
    tokio::time::advance(PAUSE).await;
    assert!(provider.jwt.check(&new).await.is_ok());
    // A key that is withdrawn is forgotten in a while; with nothing there, what was there last is in use.
    provider.publish(&[&second]);
    tokio::time::advance(FRESH).await;
    assert!(provider.jwt.check(&old).await.is_err());
    std::fs::remove_file(provider.file.path()).unwrap();
    tokio::time::advance(FRESH).await;
    assert!(provider.jwt.check(&new).await.is_ok());

    let never = Provider::new(&[]);
    assert_eq!(never.jwt.check(&new).await, Err(Refused::NoKeys));
    never.publish(&[&second]);
    tokio::time::advance(PAUSE).await;
    assert!(never.jwt.check(&new).await.is_ok());
}

#[test]
fn keys_of_other_kinds_and_for_other_purposes_are_left_out() {
    let (key_, _) = p256("a");
    let mut encrypts = key_.clone();
    encrypts["use"] = "enc".into();
    let mut short = key_.clone();
    short["x"] = "AAAA".into();
    for other in
        [encrypts, short, json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}), json!({"kty": "EC", "crv": "P-521"}), json!(7)]
    {
        assert!(key(&other).is_none(), "{other}");
    }
    assert!(key(&key_).is_some());
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut openssl = Command::new("openssl");
    openssl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = openssl.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

#[test]
fn what_openssl_signs_with_rsa_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key").display().to_string();
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &file], b"");
    let modulus = String::from_utf8(openssl(&["rsa", "-in", &file, "-noout", "-modulus"], b"")).unwrap();
    let digits = modulus.trim().trim_start_matches("Modulus=").as_bytes();
    let n: Vec<u8> = digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect();
    let mut jwk = json!({"kty": "RSA", "n": BASE64.encode(n), "e": "AQAB"});
    let text = b"header.claims";
    let rs256 = openssl(&["dgst", "-sha256", "-sign", &file], text);
    let pss = ["dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32", "-sign", &file];
    let ps256 = openssl(&pss, text);
    let any = key(&jwk).unwrap();
    assert!(any.has_signed("RS256", text, &rs256) && any.has_signed("PS256", text, &ps256));
    for (algorithm, signature) in [("PS256", &rs256), ("RS256", &ps256), ("RS512", &rs256), ("none", &rs256), ("HS256", &rs256)] {
        assert!(!any.has_signed(algorithm, text, signature), "{algorithm}");
    }
    assert!(!any.has_signed("RS256", b"header.others", &rs256));
    jwk["alg"] = "PS256".into();
    let only = key(&jwk).unwrap();
    assert!(only.has_signed("PS256", text, &ps256) && !only.has_signed("RS256", text, &rs256));
}
