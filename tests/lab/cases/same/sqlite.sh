# A database of 100,000 rows, built, indexed, queried, vacuumed.
#: timeout 240
sqlite3 /tmp/t.db <<'SQL'
pragma journal_mode = wal;
create table item(id integer primary key, name text, price real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)
    insert into item select i, 'item ' || (i * 7919 % 100003), (i * 31 % 997) / 10.0 from n;
create index by_price on item(price);
select count(*), sum(price), min(name), max(name) from item;
select price, count(*) from item where price > 99 group by price order by price limit 5;
begin; update item set price = price + 1 where id % 10 = 0; rollback;
begin; delete from item where id % 2 = 0; commit;
select count(*) from item; vacuum; pragma integrity_check;
SQL
sqlite3 /tmp/t.db 'select * from item where name = "item 42"; select count(*) from item' ; ls /tmp
