-- The tables of the golden files: text and binary, a partitioned table, a circle of references, a sequence, odd names and values.
-- Run as the owner of the schema `zoo`. It never changes: files of old versions fit these tables.

create type zoo.mood as enum ('fine', 'it''s ok', 'NULL', '');
create table zoo.account (
    id bigint generated always as identity primary key,
    name text not null unique,
    boss_id bigint references zoo.account,
    mood zoo.mood,
    created timestamptz not null,
    quota numeric(12, 3),
    tags text[],
    settings jsonb
);
create table zoo.photo (account_id bigint primary key references zoo.account, bytes bytea not null);
create table zoo.event (
    day date not null, number int not null, what text, lasted interval, ratio float8,
    primary key (day, number)
) partition by range (day);
create table zoo.event_2025 partition of zoo.event for values from ('2025-01-01') to ('2026-01-01');
create table zoo.event_rest partition of zoo.event default;
create table zoo."Odd ""name""" ("a.b" int, "select" text);
create table zoo.nothing (id int primary key);
