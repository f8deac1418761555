//! What attackers try, one test for each, over TLS on loopback sockets; and what they are answered.

use std::sync::Arc;

use crate::common::{DAY, FILESET, HOUR, Server, ask, hello, invite, listen, refusal, text};
use mezzo_core::{FilesetId, IdMapping};
use mezzo_net::frame::FrameError;
use mezzo_net::identity::{
    Address, ClientIdentity, Fingerprint, IdentityError, Link, NotAdmitted, Peer, PendingClient, Refusal,
    Rights, Secret, ServerIdentity,
};
use mezzo_net::limits;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Connects to a server with certificates that mezzo would not show.
async fn connect_as(
    server: &Server,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(authority(server)).unwrap();
    let config = ClientConfig::builder_with_details(provider(), server.clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    TlsConnector::from(Arc::new(config)).connect(server_name(), socket(server).await).await.unwrap()
}

/// Connects as somebody who has a link, and nothing else.
async fn connect_unknown(server: &Server, link: &Link) -> TlsStream<TcpStream> {
    let pending = PendingClient::open(&server.home("unknown"), server.clock.clone()).unwrap();
    let config = pending.tls_config(link).unwrap();
    TlsConnector::from(config).connect(server_name(), socket(server).await).await.unwrap()
}

async fn socket(server: &Server) -> TcpStream {
    TcpStream::connect((server.address.host(), server.address.port())).await.unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_name() -> ServerName<'static> {
    "server.mezzo.invalid".try_into().unwrap()
}

fn authority(server: &Server) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(server.state().join("authority.pem")).unwrap()
}

/// What a thief of a client's directory has: certificate and key.
fn stolen(server: &Server, name: &str) -> (CertificateDer<'static>, KeyPair) {
    use base64::Engine;
    let file: toml::Table = text(&server.home(name).join("client.toml")).parse().unwrap();
    let certificate = file["certificate"].as_str().unwrap();
    let certificate = base64::engine::general_purpose::STANDARD.decode(certificate).unwrap();
    (certificate.into(), KeyPair::from_pem(&text(&server.home(name).join("key.pem"))).unwrap())
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

#[tokio::test]
async fn who_was_invited_comes_in() {
    let mut server = Server::start().await;
    let client = server.enrol(&server.invite(), "laptop").await.unwrap();
    assert_eq!(hello(&client, FILESET).await.unwrap(), "welcome laptop");
    server.event("enrolled").await;
    let known = server.identity.client(client.client()).unwrap();
    assert_eq!((&*known.name, known.rights, known.revoked), ("laptop", Rights::ReadWrite, None));
    assert_eq!((client.rights(), client.fileset()), (Rights::ReadWrite, FILESET));
    drop(client);
    let again = ClientIdentity::open(&server.home("laptop"), server.clock.clone()).unwrap();
    assert_eq!(hello(&again, FILESET).await.unwrap(), "welcome laptop");
}

#[tokio::test]
async fn no_certificate_gets_nothing_but_enrolment() {
    let mut server = Server::start().await;
    let stream = connect_unknown(&server, &server.invite()).await;
    let answer = ask(stream, &FILESET.0).await.unwrap();
    assert_eq!(answer, [1, 129, 1, 0, 0, 0, Refusal::NotARequest as u8]);
    server.event("refused: the request makes no sense").await;
    assert_eq!(server.identity.admit(Peer::Unknown, FILESET), Err(NotAdmitted::Unknown));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (mut server, other) = (Server::start().await, Server::start().await);
    other.enrol(&other.invite(), "laptop").await.unwrap();
    let (certificate, key) = stolen(&other, "laptop");
    let stream = connect_as(&server, vec![certificate, authority(&other)], private(&key)).await;
    assert_eq!(refusal(stream).await, "the server does not know who signed this client's certificate");
    server.event("no handshake").await;
}

#[tokio::test]
async fn a_client_can_t_sign_for_another() {
    let server = Server::start().await;
    let victim = server.enrol(&server.invite(), "victim").await.unwrap();
    server.enrol(&server.invite(), "thief").await.unwrap();
    let (certificate, key) = stolen(&server, "thief");
    let mut params = CertificateParams::default();
    let uri = format!("mezzo://{FILESET}/client/{}", victim.client());
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let forged_key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
    let forged = params.signed_by(&forged_key, &issuer).unwrap();
    let stream = connect_as(&server, vec![forged.der().clone(), certificate], private(&forged_key)).await;
    assert_eq!(refusal(stream).await, "the other side does not take this certificate");
}

#[tokio::test]
async fn who_stole_the_authority_s_key_is_no_client() {
    let server = Server::start().await;
    let victim = server.enrol(&server.invite(), "victim").await.unwrap();
    let authority_key = KeyPair::from_pem(&text(&server.state().join("authority-key.pem"))).unwrap();
    let mut params = CertificateParams::default();
    let uri = format!("mezzo://{FILESET}/client/{}", victim.client());
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let forged_key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_ca_cert_der(&authority(&server), authority_key).unwrap();
    let forged = params.signed_by(&forged_key, &issuer).unwrap();
    let stream = connect_as(&server, vec![forged.der().clone()], private(&forged_key)).await;
    assert_eq!(refusal(stream).await, "the server has no such client");
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let mut server = Server::start().await;
    server.enrol(&server.invite(), "victim").await.unwrap();
    let (certificate, _) = stolen(&server, "victim");
    let own = KeyPair::generate().unwrap();
    // rustls itself would not show a certificate with a key that is not its own.
    let signer = rustls::crypto::ring::sign::any_supported_type(&private(&own)).unwrap();
    let shown = rustls::sign::CertifiedKey::new(vec![certificate], signer);
    let mut roots = RootCertStore::empty();
    roots.add(authority(&server)).unwrap();
    let config = ClientConfig::builder_with_details(provider(), server.clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(server_name(), socket(&server).await).await.unwrap();
    assert!(refusal(stream).await.contains("DecryptError"));
    server.event("no handshake").await;
}

#[tokio::test]
async fn a_client_of_another_registry_is_refused() {
    let server = Server::start().await;
    let client = server.enrol(&server.invite(), "laptop").await.unwrap();
    // The same authority with a registry from before: what was given out since is good for nothing.
    let before = server.home("before");
    ServerIdentity::open(&before, server.clock.clone()).unwrap();
    for name in ["authority-key.pem", "authority.pem"] {
        std::fs::copy(server.state().join(name), before.join(name)).unwrap();
    }
    let (address, _events) = listen(ServerIdentity::open(&before, server.clock.clone()).unwrap()).await;
    let mut client = client;
    client.set_addresses(vec![address]).unwrap();
    let stream = client.connect().await.unwrap();
    assert_eq!(refusal(stream).await, "the server has no such client");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let server = Server::start().await;
    let client = server.enrol(&server.invite(), "laptop").await.unwrap();
    server.clock.advance(limits::CLIENT_CERTIFICATE_TIME.as_secs() - 1);
    assert_eq!(hello(&client, FILESET).await.unwrap(), "welcome laptop");
    server.clock.advance(2);
    let stream = client.connect().await.unwrap();
    assert_eq!(refusal(stream).await, "the server says that this client's certificate has expired");
}

#[tokio::test]
async fn a_revoked_client_is_refused_at_once() {
    let mut server = Server::start().await;
    let client = server.enrol(&server.invite(), "laptop").await.unwrap();
    let live = client.connect().await.unwrap();
    server.event("connected").await;
    let identity = server.identity.clone();
    let id = client.client();
    let ended = tokio::spawn(async move { identity.until_revoked(id).await });
    tokio::task::yield_now().await;
    assert!(!ended.is_finished());
    assert!(server.identity.revoke(id).unwrap());
    ended.await.unwrap();
    // New connections are refused, and what was connected before may use nothing any more.
    let stream = client.connect().await.unwrap();
    assert_eq!(refusal(stream).await, "the server has revoked this client");
    let answer = String::from_utf8(ask(live, &FILESET.0).await.unwrap()).unwrap();
    assert_eq!(answer, format!("client {id} was revoked"));
    // Nor does it get another certificate.
    let renewal = server.identity.answer(Peer::Client(id), &client.renewal_request().unwrap());
    assert_eq!(renewal.outcome.unwrap_err().refusal, Refusal::Revoked);
    assert!(!server.identity.revoke(id).unwrap());
}

#[tokio::test]
async fn a_replayed_invitation_is_refused() {
    let server = Server::start().await;
    let link = server.invite();
    server.enrol(&link, "laptop").await.unwrap();
    assert!(matches!(server.enrol(&link, "thief").await, Err(IdentityError::Refused(Refusal::Used))));
    assert_eq!(server.identity.clients().len(), 1);
}

#[tokio::test]
async fn who_did_not_get_the_answer_may_ask_again_with_the_same_key() {
    let server = Server::start().await;
    let link = server.invite();
    let pending = PendingClient::open(&server.home("laptop"), server.clock.clone()).unwrap();
    let lost = server.identity.answer(Peer::Unknown, &pending.request(&link, "laptop").unwrap());
    let client = pending.enrol(&link, "laptop").await.unwrap();
    assert_eq!(lost.outcome.unwrap(), client.client());
    assert_eq!(server.identity.clients().len(), 1);
    assert_eq!(hello(&client, FILESET).await.unwrap(), "welcome laptop");
}

#[tokio::test]
async fn an_expired_invitation_is_refused() {
    let server = Server::start().await;
    let link = server.invite();
    server.clock.advance(HOUR.as_secs());
    assert!(matches!(server.enrol(&link, "late").await, Err(IdentityError::Refused(Refusal::Expired))));
    assert!(server.identity.clients().is_empty());
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let server = Server::start().await;
    let guess = Link { secret: Secret::from_bytes([0; 32]), ..server.invite() };
    assert!(matches!(server.enrol(&guess, "thief").await, Err(IdentityError::Refused(Refusal::NotInvited))));
}

#[tokio::test]
async fn an_invitation_is_good_for_its_fileset_only() {
    let server = Server::start().await;
    let link = Link { fileset: FilesetId([0x22; 16]), ..server.invite() };
    assert!(matches!(server.enrol(&link, "thief").await, Err(IdentityError::Refused(Refusal::OtherFileset))));
}

#[tokio::test]
async fn a_certificate_for_one_fileset_does_not_open_another() {
    let server = Server::start().await;
    let client = server.enrol(&server.invite(), "laptop").await.unwrap();
    let other = FilesetId([0x22; 16]);
    let answer = hello(&client, other).await.unwrap();
    assert_eq!(
        answer,
        format!("client {} was invited to fileset {FILESET} and not to {other}", client.client())
    );
}

#[tokio::test]
async fn a_server_in_the_middle_does_not_get_the_secret() {
    let (server, mut middle) = (Server::start().await, Server::start().await);
    let link = Link { addresses: vec![middle.address.clone()], ..server.invite() };
    let refused = server.enrol(&link, "victim").await.unwrap_err().to_string();
    assert!(refused.contains("it is another server: it does not show the authority"), "{refused}");
    middle.event("no handshake").await;
    // The invitation is good as before.
    server.enrol(&Link { addresses: vec![server.address.clone()], ..link }, "victim").await.unwrap();
}

/// A TLS server that shows `chain`, and what it gets to read from who connects.
async fn pretender(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> (Address, tokio::task::JoinHandle<Vec<u8>>) {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"mezzo".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let heard = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            // However it ends: what came before counts.
            let _ = stream.read_to_end(&mut heard).await;
        }
        heard
    });
    (address, heard)
}

#[tokio::test]
async fn a_server_that_shows_the_authority_s_certificate_beside_its_own_is_refused() {
    let server = Server::start().await;
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["server.mezzo.invalid".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (address, heard) = pretender(vec![own.der().clone(), authority(&server)], private(&key)).await;
    let link = Link { addresses: vec![address], ..server.invite() };
    let refused = server.enrol(&link, "victim").await.unwrap_err().to_string();
    assert!(refused.contains("it is another server"), "{refused}");
    assert_eq!(heard.await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_s_certificate_is_no_server_s() {
    let server = Server::start().await;
    let mut victim = server.enrol(&server.invite(), "victim").await.unwrap();
    server.enrol(&server.invite(), "thief").await.unwrap();
    let (certificate, key) = stolen(&server, "thief");
    let chain = vec![certificate, authority(&server)];
    for enrolled in [false, true] {
        let (address, heard) = pretender(chain.clone(), private(&key)).await;
        if enrolled {
            victim.set_addresses(vec![address]).unwrap();
            assert!(matches!(victim.connect().await, Err(IdentityError::Connect { .. })));
        } else {
            let link = Link { addresses: vec![address], ..server.invite() };
            assert!(matches!(server.enrol(&link, "new").await, Err(IdentityError::Connect { .. })));
        }
        assert_eq!(heard.await.unwrap(), b"");
    }
}

#[tokio::test]
async fn another_server_is_refused_by_a_client() {
    let (server, other) = (Server::start().await, Server::start().await);
    let mut client = server.enrol(&server.invite(), "laptop").await.unwrap();
    client.set_addresses(vec![other.address.clone()]).unwrap();
    let refused = client.connect().await.unwrap_err().to_string();
    assert!(refused.contains("it is another server: its certificate is not signed by"), "{refused}");
}

#[tokio::test]
async fn an_oversized_enrolment_is_cut_off() {
    let mut server = Server::start().await;
    let mut stream = connect_unknown(&server, &server.invite()).await;
    stream.write_all(&(limits::REQUEST_BYTES as u32 + 1).to_le_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let event = server.event("no enrolment").await;
    assert!(event.contains("a frame of 8193 bytes is too long: 8192 are the limit"), "{event}");
    let mut end = Vec::new();
    // The end of the connection, cleanly or not.
    let _ = stream.read_to_end(&mut end).await;
    assert_eq!(end, b"");
}

#[tokio::test]
async fn garbage_for_an_enrolment_is_refused() {
    let mut server = Server::start().await;
    for garbage in [&b""[..], b"x", &[0xff; 8192], b"GET / HTTP/1.1\r\n\r\n"] {
        let stream = connect_unknown(&server, &server.invite()).await;
        let answer = ask(stream, garbage).await.unwrap();
        assert_eq!(answer, [1, 129, 1, 0, 0, 0, Refusal::NotARequest as u8]);
        server.event("refused: the request makes no sense").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_enrolment_is_cut_off() {
    let room = tempfile::tempdir().unwrap();
    let identity =
        ServerIdentity::open(&room.path().join("server"), crate::common::TestClock::new()).unwrap();
    for sent in [0, 3, 100] {
        let begun = tokio::time::Instant::now();
        let (mut slow, stream) = tokio::io::duplex(1 << 16);
        let sender = tokio::spawn(async move {
            let frame = [&1000u32.to_le_bytes()[..], &[0; 1000]].concat();
            for byte in &frame[..sent] {
                // It ends when the server has had enough.
                let _ = slow.write_u8(*byte).await;
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
            drop(slow);
        });
        let outcome = identity.serve_enrolment(Peer::Unknown, stream).await;
        assert!(matches!(outcome, Err(FrameError::TooSlow { operation: "read", .. })), "{outcome:?}");
        assert_eq!(begun.elapsed().as_secs(), limits::ENROLMENT_TIME.as_secs(), "after {sent} bytes");
        sender.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_handshake_is_cut_off() {
    let room = tempfile::tempdir().unwrap();
    let identity =
        ServerIdentity::open(&room.path().join("server"), crate::common::TestClock::new()).unwrap();
    let config = identity.tls_config().unwrap();
    let begun = tokio::time::Instant::now();
    let (_slow, stream) = tokio::io::duplex(1 << 16);
    let error = identity.accept(&config, stream).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(begun.elapsed().as_secs(), limits::HANDSHAKE_TIME.as_secs());
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let mut server = Server::start().await;
    let mut stream = socket(&server).await;
    stream.write_all(&client_hello_of_tls_1_2()).await.unwrap();
    let mut alert = [0; 7];
    stream.read_exact(&mut alert).await.unwrap();
    // An alert (21), fatal (2): protocol_version (70).
    assert_eq!((alert[0], &alert[5..]), (21, &[2, 70][..]));
    server.event("no handshake").await;
}

/// RFC 5246, 7.4.1.2: one suite, its curve and its signature, and no `supported_versions`.
fn client_hello_of_tls_1_2() -> Vec<u8> {
    let extensions = [
        // Groups: secp256r1. Point formats: uncompressed. Signatures: ECDSA with P-256 and SHA-256.
        &[0, 10, 0, 4, 0, 2, 0, 23][..],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        // No session, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression.
        &[0, 0, 2, 0xc0, 0x2b, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let handshake = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(handshake.len() as u16).to_be_bytes(), &handshake].concat()
}

#[tokio::test]
async fn a_signing_request_that_is_not_signed_by_its_key_is_refused() {
    let server = Server::start().await;
    let link = server.invite();
    let pending = PendingClient::open(&server.home("laptop"), server.clock.clone()).unwrap();
    let good = pending.request(&link, "laptop").unwrap();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let refused = server.identity.answer(Peer::Unknown, &forged).outcome.unwrap_err();
    assert_eq!(refused.refusal, Refusal::NotARequest);
    assert!(server.identity.answer(Peer::Unknown, &good).outcome.is_ok());
}

#[tokio::test]
async fn an_answer_for_another_key_or_of_another_server_is_refused_by_the_client() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (link, theirs) = (server.invite(), other.invite());
    let open = |name: &str| PendingClient::open(&server.home(name), server.clock.clone()).unwrap();
    let answer = |server: &Server, link: &Link, name: &str| {
        server.identity.answer(Peer::Unknown, &open(name).request(link, name).unwrap()).bytes
    };
    let for_another = answer(&server, &link, "another");
    let of_another = answer(&other, &theirs, "laptop");
    for bytes in [for_another, of_another] {
        let refused = open("laptop").finish(&link, &bytes);
        assert!(matches!(refused, Err(IdentityError::Certificate { .. })), "{refused:?}");
    }
    assert!(!server.home("laptop").join("client.toml").exists());
}

#[tokio::test]
async fn a_renewal_is_for_the_same_key_and_client() {
    let server = Server::start().await;
    let [one, two] =
        [server.enrol(&server.invite(), "one").await, server.enrol(&server.invite(), "two").await];
    let [one, two] = [one.unwrap(), two.unwrap()];
    let request = two.renewal_request().unwrap();
    for peer in [Peer::Client(one.client()), Peer::Unknown] {
        let refused = server.identity.answer(peer, &request).outcome.unwrap_err();
        assert_eq!(refused.refusal, Refusal::NotARequest);
    }
    assert_eq!(server.identity.answer(Peer::Client(two.client()), &request).outcome.unwrap(), two.client());
}

#[tokio::test]
async fn certificates_are_renewed_before_they_end() {
    let server = Server::start().await;
    let mut client = server.enrol(&server.invite(), "laptop").await.unwrap();
    assert!(!client.wants_renewal());
    // The server's certificates end every 30 days: each of these connections needs another.
    for _ in 0..30 {
        server.clock.advance(100 * DAY);
        assert_eq!(hello(&client, FILESET).await.unwrap(), "welcome laptop");
        if client.wants_renewal() {
            let stream = client.connect().await.unwrap();
            let answer = ask(stream, &client.renewal_request().unwrap()).await.unwrap();
            client.renew(&answer).unwrap();
            assert!(!client.wants_renewal());
        }
    }
}

#[tokio::test]
async fn a_server_s_clock_that_was_set_back_does_no_harm() {
    let server = Server::start().await;
    server.clock.advance(1000 * DAY);
    let late = ServerIdentity::open(&server.home("late"), server.clock.clone()).unwrap();
    let (address, _events) = listen(late.clone()).await;
    server.clock.advance(0u64.wrapping_sub(900 * DAY));
    let pending = PendingClient::open(&server.home("laptop"), server.clock.clone()).unwrap();
    pending.enrol(&invite(&late, &address), "laptop").await.unwrap();
}

#[tokio::test]
async fn nothing_is_given_out_that_could_not_be_written_down() {
    let server = Server::start().await;
    let link = server.invite();
    let obstacle = server.state().join("registry.toml.new");
    std::fs::create_dir(&obstacle).unwrap();
    assert!(matches!(server.enrol(&link, "laptop").await, Err(IdentityError::Refused(Refusal::Unable))));
    assert!(server.identity.clients().is_empty());
    std::fs::remove_dir(&obstacle).unwrap();
    server.enrol(&link, "laptop").await.unwrap();
}

#[tokio::test]
async fn rights_and_mapping_reach_the_client() {
    let server = Server::start().await;
    let mapping: IdMapping = "table:u1000=2000,g100=200".parse().unwrap();
    let addresses = vec!["[::1]:1".parse().unwrap(), server.address.clone()];
    let link = server.identity.mint(Rights::Read, HOUR, mapping.clone(), FILESET, addresses).unwrap();
    let client = server.enrol(&link.to_string().parse().unwrap(), "laptop").await.unwrap();
    assert_eq!((client.rights(), client.mapping()), (Rights::Read, &mapping));
    let known = server.identity.admit(Peer::Client(client.client()), FILESET).unwrap();
    assert_eq!((known.rights, known.mapping), (Rights::Read, mapping));
    assert_eq!(client.authority(), server.identity.fingerprint());
    assert_eq!(client.authority(), Fingerprint::of(&authority(&server)));
}
