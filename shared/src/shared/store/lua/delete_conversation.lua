-- delete_conversation: refused under an open turn, which would save the conversation anew at its end.
local turn = open_turn(args.conversation)
if turn then return {'conversation_busy', turn} end
return {forget_conversation(args.conversation, args.tenant) == 1 and 'done' or 'missing'}
