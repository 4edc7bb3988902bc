//! What `skep up` does when it can't have the port of a manifest.

use tokio::net::TcpListener;

use crate::harness::scene::{Scene, inline, permit};

#[tokio::test]
async fn a_taken_port_is_replaced_by_a_free_one_and_it_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let scene = Scene::on_port(port, &inline(&[permit(0)])).await;

    assert!(!scene.url.contains(&format!(":{port}/")), "{} is another one's", scene.url);
    let said = scene.up.stdout.text() + &scene.up.stderr.text();
    let found = said.lines().any(|line| line.contains(&port.to_string()) && line.contains("taken"));
    assert!(found, "nothing about port {port} in {said}");
    assert_eq!(scene.status_of("tool-0").await, 200);
}
