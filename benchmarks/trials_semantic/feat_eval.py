from common import *
import time
torch.set_num_threads(2)
m=backbone().to(memory_format=torch.channels_last)
def feats(ims,bs=1):
    out=[];logit=[]
    with torch.inference_mode():
        for i in range(0,len(ims),bs):
            x=torch.stack([torch.as_tensor(v) for v in ims[i:i+bs]])
            if x.shape[-1]==3: x=x.permute(0,3,1,2)
            x=((x.float()/255-.5)/.5).to(memory_format=torch.channels_last)
            with torch.autocast('cpu',torch.bfloat16):
                x=m.bn1(m.conv_stem(x)); ms=[]
                for j,b in enumerate(m.blocks):
                    x=b(x)
                    if j in STAGES: ms.append(x)
                g=m.forward_head(m.bn2(m.conv_head(x)),pre_logits=True)
            out.append(torch.cat([moments([t.float() for t in ms]),g.float()],1))
    return torch.cat(out).numpy()
t=time.time(); xs,lab=torch.load('dev.pt',weights_only=False); np.save('dev_f.npy',feats(xs)); print('dev',time.time()-t,flush=True)
t=time.time(); ims,rows=torch.load('syn.pt',weights_only=False); np.save('syn_f.npy',feats(ims)); print('syn',time.time()-t,flush=True)
for r in 0,1:
    t=time.time(); np.save(f'pool{r}_f.npy',feats(np.load(f'pool{r}/x.npy',mmap_mode='r'),8)); print('pool',time.time()-t,flush=True)
