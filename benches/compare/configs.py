"""Configs of the backend and the proxies, comparable in what they do for a request.

All keep connections alive on both sides, tell the backend the client's address and write no access
log; every limit and timeout that is on by default stays on.
"""

# What clients speak to a proxy, and what each proxy's config says for it. cutover tells HTTP/2 from
# HTTP/1.1 on one port by itself.
WIRES = {
    "h1": {"nginx_wire": "", "haproxy_wire": "", "cutover_wire": ""},
    "h2": {"nginx_wire": " http2", "haproxy_wire": " proto h2", "cutover_wire": ""},
    "tls": {
        "nginx_wire": " ssl http2",
        "haproxy_wire": " ssl crt {dir}/both.pem alpn h2,http/1.1",
        "cutover_wire": '[listen.tls]\ncertificate = "cert.pem"\nkey = "key.pem"',
    },
}

NGINX_FRAME = """
{user}
daemon off;
pid {dir}/nginx.pid;
error_log stderr error;
worker_processes {workers};
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
{http}
}}
"""

# `mirror` makes nginx read the whole body before it answers, as an application would; the static
# file `post` then refuses POST with 405, which is turned into the reply.
BACKEND_HTTP = """
  sendfile on;
  open_file_cache max=16;
  client_body_buffer_size 64k;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{listen} backlog=4096;
    root {dir};
    location = /small {{ return 200 "{reply}"; }}
    location = /post {{ mirror /read; error_page 405 =200 @answer; }}
    location = /read {{ internal; return 204; }}
    location @answer {{ return 200 "{reply}"; }}
  }}
"""

# Bodies stay in memory, as in every other proxy here: by default nginx writes a reply that its
# client is slow to take, and any request body over 8 KiB, to a file. It would send the latter in
# two parts and wait 40 ms in between (Nagle's algorithm against delayed acknowledgement).
PROXY_HTTP = """
  upstream backend {{
    server 127.0.0.1:{backend};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{listen} backlog=4096{nginx_wire};
    ssl_certificate {dir}/cert.pem;
    ssl_certificate_key {dir}/key.pem;
    ssl_session_cache shared:tls:10m;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_max_temp_file_size 0;
      client_body_buffer_size 64k;
    }}
  }}
"""

HAPROXY = """
global
  nbthread {workers}
  maxconn {connections}
defaults
  mode http
  option http-keep-alive
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 75s
  timeout server 30s
  timeout http-request 10s
  timeout http-keep-alive 75s
frontend clients
  bind 127.0.0.1:{listen} backlog 4096{haproxy_wire}
  default_backend application
backend application
  server one 127.0.0.1:{backend}
"""

CUTOVER = """
async_weight = 0.0
[listen]
address = "127.0.0.1:{listen}"
workers = {workers}
{cutover_wire}
[admin]
address = "127.0.0.1:{admin}"
[legacy]
endpoints = ["http://127.0.0.1:{backend}"]
[async]
endpoints = ["http://127.0.0.1:{backend}"]
"""
