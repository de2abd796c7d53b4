#!lua flags=allow-oom
-- Make a job and its unique key know each other while the job is alive, and only then. Judges what is there now.
-- KEYS none beyond the fixed ones
-- ARGV 2 '1' to act, '' to tell what would be done, 3 id, 4 the entry of unique to look at: '=key', or the id
-- Returns 'freed' (a key of a job that is dead or gone, or has another key, is dropped), 'told' (the job learns of its key), 'taken' (the job
--   takes its key again), 'given up' (another job that is alive holds its key: it goes on without), or '' (nothing is wrong).
local act, id, field = ARGV[2] == '1', ARGV[3], ARGV[4]
local function write(command, key, ...) if act then call(command, key, ...) end end
local stored, key = call('HEXISTS', JOBS, id) == 1, call('HGET', UNIQUE, id)
local alive = stored and not call('ZSCORE', DEAD, id)

if string.sub(field, 1, 1) == '=' then
  if call('HGET', UNIQUE, field) ~= id or (alive and key == string.sub(field, 2)) then return '' end
  if alive and not key then
    write('HSET', UNIQUE, id, string.sub(field, 2))
    return 'told'
  end
  write('HDEL', UNIQUE, field)
  return 'freed'
end
local holder = key and call('HGET', UNIQUE, '=' .. key)
if not key or (alive and holder == id) or (stored and not alive) then return '' end
if not stored then
  if holder == id then write('HDEL', UNIQUE, '=' .. key) end
  write('HDEL', UNIQUE, id)
  return 'freed'
end
if holder and call('HEXISTS', JOBS, holder) == 1 and not call('ZSCORE', DEAD, holder) then
  write('HDEL', UNIQUE, id)
  return 'given up'
end
write('HSET', UNIQUE, '=' .. key, id)
return 'taken'
