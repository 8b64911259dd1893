//! The least that an actix-web server can do for a request: the ceiling that scripts/bench-reads.sh compares
//! reads with. Every GET is answered with the same bytes; no route, no store.
//!
//! Not part of the product. Same web framework, allocator and number of threads as a node's.
//!
//! `hello PORT WORKERS BODY_BYTES`

use std::process::ExitCode;

use actix_web::{web, App, HttpResponse, HttpServer};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[actix_web::main]
async fn main() -> ExitCode {
    let numbers: Option<Vec<usize>> = std::env::args().skip(1).map(|arg| arg.parse().ok()).collect();
    let Some([port, workers, body_bytes]) = numbers.as_deref() else {
        eprintln!("usage: hello PORT WORKERS BODY_BYTES");
        return ExitCode::from(2);
    };
    let Ok(port) = u16::try_from(*port) else {
        eprintln!("hello: {port} is no port");
        return ExitCode::from(2);
    };
    match serve(port, (*workers).max(1), *body_bytes).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(port: u16, workers: usize, body_bytes: usize) -> std::io::Result<()> {
    let body = web::Bytes::from(vec![b'x'; body_bytes]);
    let app = move || {
        let body = body.clone();
        let answer = move || {
            let body = body.clone();
            async move { HttpResponse::Ok().content_type("application/octet-stream").body(body) }
        };
        App::new().default_service(web::get().to(answer))
    };
    HttpServer::new(app).workers(workers).bind(("127.0.0.1", port))?.run().await
}
